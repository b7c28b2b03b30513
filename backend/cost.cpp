// What each kernel asks of a device, from its shapes alone.
#include <array>
#include <cmath>

#include "backend/core/real.hpp"
#include "backend/kernel.hpp"

namespace orrery {

namespace {

// Q K^T and P V: 2 * (2 b a s^2 h) FLOPs with the full s^2; the backward pass does five products
// for the forward's two.
Cost attention_cost(const Kernel& k, bool backward) {
  const auto [batch, heads, kv_heads, sequence, head, which] = k.dims;
  const bool prefix = which == static_cast<std::int64_t>(AttentionPart::prefix);
  const std::int64_t keys = prefix ? k.part.of * sequence : sequence;
  const double forward = 4.0 * real(batch) * real(heads) * real(sequence) * real(keys) * real(head);
  const bool full = which == static_cast<std::int64_t>(AttentionPart::full);
  Cost c;
  c.matrix = Flops(backward ? 2.0 * forward : forward);
  c.executed = Flops((backward ? 2.5 : 1.0) * forward * (full ? 1.0 : 0.5));
  const std::int64_t q = batch * sequence * heads * head, kv = batch * keys * kv_heads * head;
  const Bytes statistics = bytes_of(batch * heads * sequence, Dtype::fp32);
  c.read =
      bytes_of(q + 2 * kv, k.dtype) + (backward ? bytes_of(2 * q, k.dtype) + statistics : Bytes(0));
  c.written = backward ? bytes_of(q + 2 * kv, k.dtype) : bytes_of(q, k.dtype) + statistics;
  return c;
}

// Late queries are half of them.
Cost merge_cost(const Kernel& k) {
  const bool late = k.dims[5] == static_cast<std::int64_t>(AttentionPart::late_queries);
  const std::int64_t rows = k.dims[0] * k.dims[1] * k.dims[3] / (late ? 2 : 1);
  Cost c;
  c.read = bytes_of(2 * rows * k.dims[4], k.dtype) + bytes_of(2 * rows, Dtype::fp32);
  c.written = bytes_of(rows * k.dims[4], k.dtype) + bytes_of(rows, Dtype::fp32);
  c.vector = Flops(3.0 * real(rows * k.dims[4]));
  return c;
}

Cost custom_cost(const Kernel& k) {
  Cost c;
  c.vector = Flops(k.scalars[0]);
  c.read = Bytes(k.dims[0]);
  return c;
}

Cost elementwise(std::int64_t read, std::int64_t written, Dtype dtype, double flops) {
  Cost c;
  c.read = bytes_of(read, dtype);
  c.written = bytes_of(written, dtype);
  c.vector = Flops(flops);
  return c;
}

// Optimizers read and write their state beside the parameter and read the gradient; a narrow
// parameter is written only, for it has an fp32 master.
Cost optimizer_cost(const Kernel& k, std::int64_t gradient, std::int64_t moments,
                    std::int64_t states, double flops_each) {
  const std::int64_t n = k.dims[0];
  const Bytes state = bytes_of(n * states, static_cast<Dtype>(moments)) +
                      bytes_of(size_of(k.dtype) < 4 ? n : 0, Dtype::fp32);
  Cost c;
  c.read = state + bytes_of(n, static_cast<Dtype>(gradient)) +
           bytes_of(size_of(k.dtype) < 4 ? 0 : n, k.dtype);
  c.written = state + bytes_of(n, k.dtype);
  c.vector = Flops(flops_each * real(n));
  return c;
}

// The result of operands below 16 bits has 16.
Cost gemm_cost(const Kernel& k) {
  const auto [m, n, depth] = std::array{k.dims[0], k.dims[1], k.dims[2]};
  const Dtype result = size_of(k.dtype) < 2 ? Dtype::bf16 : k.dtype;
  Cost c;
  c.matrix = Flops(2.0 * real(m) * real(n) * real(depth));
  c.executed = c.matrix;
  c.read = bytes_of(m * depth + depth * n, k.dtype) +
           bytes_of((k.accumulate ? m * n : 0) + (k.dims[3] != 0 ? n : 0), result);
  c.written = bytes_of(m * n, result);
  return c;
}

Cost grouped_gemm_cost(const Kernel& k) {
  Cost c = gemm_cost(k);
  const std::int64_t groups = k.dims[4];
  c.matrix = c.matrix * real(groups);
  c.executed = c.matrix;
  c.read = Bytes(c.read.value * groups);
  c.written = Bytes(c.written.value * groups);
  return c;
}

// Rows that go to places of experts and come back: each row as often as it chooses.
Cost mixture_cost(const Kernel& k) {
  const std::int64_t rows = k.dims[0], width = k.dims[1], chosen = k.dims[2], places = k.dims[3];
  switch (k.op) {
    case Op::route:
      return elementwise(rows * width, 3 * rows * chosen, k.dtype, 10.0 * real(rows * width));
    case Op::route_backward:
      return elementwise(rows * (width + 4 * chosen), rows * width, k.dtype,
                         6.0 * real(rows * width));
    case Op::dispatch:
      return elementwise(rows * width * chosen, places * width, k.dtype, 0);
    case Op::combine_backward:
      return elementwise(2 * rows * width * chosen, places * width, k.dtype,
                         4.0 * real(rows * width * chosen));
    default:  // a sum per row
      return elementwise(rows * width * (chosen + (k.op == Op::combine ? 1 : 0)), rows * width,
                         k.dtype, 2.0 * real(rows * width * chosen));
  }
}

// A product that moves other elements than those of its matrices.
Cost implicit_gemm_cost(const Kernel& k, std::int64_t read, std::int64_t written) {
  const auto [m, n, depth] = product_of(k);
  Cost c;
  c.matrix = Flops(2.0 * real(m) * real(n) * real(depth));
  c.executed = c.matrix;
  c.read = bytes_of(read, k.dtype);
  c.written = bytes_of(written, k.dtype);
  return c;
}

// An accumulated gradient counts once, as a product's that adds while it writes.
Cost convolution_cost(const Kernel& k) {
  const ConvolutionShape s = convolution_of(k);
  if (k.op == Op::convolution) return implicit_gemm_cost(k, s.inputs() + s.weights(), s.outputs());
  if (k.op == Op::convolution_input_gradient)
    return implicit_gemm_cost(k, s.outputs() + s.weights() + (k.accumulate ? s.inputs() : 0),
                              s.inputs());
  return implicit_gemm_cost(k, s.inputs() + s.outputs() + s.weights(), s.weights());
}

// Of `points` reals to points/2 + 1 pairs, or back.
Cost fft_cost(const Kernel& k) {
  const std::int64_t reals = k.dims[0] * k.dims[1], pairs = k.dims[0] * (k.dims[1] / 2 + 1);
  const bool inverse = k.dims[2] != 0;
  const double flops = 2.5 * real(reals) * std::log2(real(k.dims[1]));
  return elementwise(inverse ? 2 * pairs : reals, inverse ? reals : 2 * pairs, k.dtype, flops);
}

// What a transformer does to its activations between matrix products. Gains, biases and tables of
// angles are small beside them; a bias is counted where it is a kernel's only second operand.
Cost activation_cost(const Kernel& k) {
  const std::int64_t all = k.dims[0] * k.dims[1], bias = k.dims[2] != 0 ? k.dims[1] : 0;
  switch (k.op) {
    case Op::bias_activation:
      return elementwise(all + bias, all, k.dtype, 10.0 * real(all));
    case Op::bias_activation_backward:
      return elementwise(2 * all + bias, all, k.dtype, 20.0 * real(all));
    case Op::gated_activation:
      return elementwise(2 * (all + bias), all, k.dtype, 12.0 * real(all));
    case Op::gated_activation_backward:
      return elementwise(3 * all + 2 * bias, 2 * all, k.dtype, 24.0 * real(all));
    case Op::residual_add:
      return elementwise(2 * all + bias, all, k.dtype, real(all + bias));
    case Op::residual_add_backward:
      return elementwise(3 * all, all, k.dtype, real(3 * all));
    case Op::batch_norm:  // once for the statistics, again to apply them
      return elementwise(2 * all, all, k.dtype, real(2 * all));
    case Op::batch_norm_backward:
      return elementwise(4 * all, all, k.dtype, real(4 * all));
    case Op::norm:
      return elementwise(all, all, k.dtype, 5.0 * real(all));
    case Op::norm_backward:
      return elementwise((k.dims[3] != 0 ? 3 : 2) * all, all, k.dtype, 12.0 * real(all));
    case Op::rotary: {
      const std::int64_t turned = all * k.dims[2] * k.dims[4];
      return elementwise(turned, turned, k.dtype, 3.0 * real(turned));
    }
    default:  // positions
      return elementwise(2 * all, all, k.dtype, real(all));
  }
}

// Pools and loads pictures.
Cost picture_cost(const Kernel& k) {
  const auto [samples, size, channels, kernel, stride, unused] = k.dims;
  const std::int64_t all = samples * size * size * channels;
  const std::int64_t side = k.op == Op::max_pool || k.op == Op::max_pool_backward
                                ? (size + 2 * ((kernel - 1) / 2) - kernel) / stride + 1
                                : 1;
  const std::int64_t pooled = samples * side * side * channels;
  switch (k.op) {
    case Op::max_pool:
    case Op::average_pool:
      return elementwise(all, pooled, k.dtype, real(all));
    case Op::max_pool_backward:
      return elementwise(pooled + all, all, k.dtype, real(pooled + all));
    case Op::average_pool_backward:
      return elementwise(pooled, all, k.dtype, real(pooled));
    default:  // picture_batch, whose third size is no number of channels
      return elementwise(0, 3 * samples * size * size, k.dtype, 0);
  }
}

// What ranks that share a layer, its tokens or its experts do besides.
Cost shared_layer_cost(const Kernel& k) {
  const std::int64_t all = k.dims[0] * k.dims[1];
  switch (k.op) {
    case Op::grouped_gemm:
      return grouped_gemm_cost(k);
    case Op::attention_merge:
      return merge_cost(k);
    case Op::permute:
      return elementwise(all * k.dims[2], all * k.dims[2], k.dtype, 0);
    case Op::reorder:
      return elementwise(all * k.dims[2] * k.part.of, all * k.dims[2] * k.part.of, k.dtype, 0);
    case Op::row_maximum:
      return elementwise(all, 0, k.dtype, real(all));
    case Op::softmax_sums:
    case Op::softmax_gradient:
      return elementwise(all, all, k.dtype, 3.0 * real(all));
    default:
      return mixture_cost(k);
  }
}

// Of what is a matrix: in other kernels the two may be too large to multiply.
std::int64_t all_of(const Kernel& k) { return k.dims[0] * k.dims[1]; }

}  // namespace

std::array<std::int64_t, 3> product_of(const Kernel& k) {
  const ConvolutionShape s = convolution_of(k);
  const auto pixels = [&s] { return s.samples * s.out_size() * s.out_size(); };
  switch (k.op) {
    case Op::gemm:
    case Op::grouped_gemm:
    case Op::implicit_gemm:
      return {k.dims[0], k.dims[1], k.dims[2]};
    case Op::convolution:
      return {pixels(), s.out, s.window()};
    case Op::convolution_input_gradient:
      return {pixels(), s.window(), s.out};
    case Op::convolution_weight_gradient:
      return {s.window(), s.out, pixels()};
    default:
      return {0, 0, 0};
  }
}

Cost cost(const Kernel& k) {
  const std::int64_t rows = k.dims[0], cols = k.dims[1];
  switch (k.op) {
    case Op::gemm:
      return gemm_cost(k);
    case Op::attention:
      return attention_cost(k, false);
    case Op::attention_backward:
      return attention_cost(k, true);
    case Op::implicit_gemm:
      return implicit_gemm_cost(k, k.dims[3], k.dims[4]);
    case Op::convolution:
    case Op::convolution_input_gradient:
    case Op::convolution_weight_gradient:
      return convolution_cost(k);
    case Op::max_pool:
    case Op::max_pool_backward:
    case Op::average_pool:
    case Op::average_pool_backward:
    case Op::picture_batch:
      return picture_cost(k);
    case Op::fft:
      return fft_cost(k);
    case Op::bias_activation:
    case Op::bias_activation_backward:
    case Op::gated_activation:
    case Op::gated_activation_backward:
    case Op::residual_add:
    case Op::residual_add_backward:
    case Op::batch_norm:
    case Op::batch_norm_backward:
    case Op::norm:
    case Op::norm_backward:
    case Op::rotary:
    case Op::add_positions:
    case Op::positions_backward:
      return activation_cost(k);
    case Op::column_sum:
      return elementwise(all_of(k) + cols, cols, k.dtype, real(all_of(k)));
    case Op::embedding:
      return elementwise(all_of(k), all_of(k), k.dtype, 0);
    case Op::embedding_backward:
      return elementwise(2 * all_of(k), all_of(k), k.dtype, real(all_of(k)));
    case Op::cross_entropy:
      return elementwise(all_of(k), all_of(k), k.dtype, 6.0 * real(all_of(k)));
    case Op::linear_combination:
      return elementwise(2 * rows, rows, k.dtype, 3.0 * real(rows));
    case Op::fill:
      return elementwise(0, rows, k.dtype, 0);
    case Op::initialise:
      return elementwise(0, all_of(k), k.dtype, 40.0 * real(all_of(k)));
    case Op::cast: {
      Cost c = elementwise(0, rows, k.dtype, real(rows));
      c.read = bytes_of(rows, static_cast<Dtype>(cols));
      return c;
    }
    case Op::sum_squares:
      return elementwise(rows, 1, k.dtype, 2.0 * real(rows));
    case Op::clip_scale:
      return elementwise(1, 1, k.dtype, 3);
    case Op::sgd:
      return optimizer_cost(k, k.dims[2], k.dims[3], k.scalars[1] != 0 ? 1 : 0, 6);
    case Op::adamw:
      return optimizer_cost(k, k.dims[1], k.dims[2], 2, 15);
    case Op::text_batch:
      return elementwise(0, (all_of(k) + rows * k.dims[2]) / k.part.of, Dtype::int32, 0);
    case Op::streaming:
    case Op::host_copy:  // of the device's memory
      return elementwise(k.dims[0], k.dims[1], k.dtype, real(k.dims[0]));
    case Op::custom:
      return custom_cost(k);
    case Op::timed:
      return {};
    default:
      return shared_layer_cost(k);
  }
}

}  // namespace orrery
