#include "backend/kernel.hpp"

#include <array>
#include <bit>

#include "backend/core/error.hpp"
#include "backend/kernel_factory.hpp"

namespace orrery {

using namespace kernel_factory;

namespace {

constexpr std::array<const char*, 56> op_names{"gemm",
                                               "bias_activation",
                                               "bias_activation_backward",
                                               "column_sum",
                                               "embedding",
                                               "embedding_backward",
                                               "cross_entropy",
                                               "linear_combination",
                                               "fill",
                                               "cast",
                                               "sum_squares",
                                               "clip_scale",
                                               "sgd",
                                               "adamw",
                                               "initialise",
                                               "text_batch",
                                               "norm",
                                               "norm_backward",
                                               "rotary",
                                               "gated_activation",
                                               "gated_activation_backward",
                                               "residual_add",
                                               "add_positions",
                                               "positions_backward",
                                               "attention",
                                               "attention_backward",
                                               "attention_merge",
                                               "row_maximum",
                                               "softmax_sums",
                                               "softmax_gradient",
                                               "permute",
                                               "reorder",
                                               "grouped_gemm",
                                               "route",
                                               "route_backward",
                                               "dispatch",
                                               "dispatch_backward",
                                               "combine",
                                               "combine_backward",
                                               "convolution",
                                               "convolution_input_gradient",
                                               "convolution_weight_gradient",
                                               "batch_norm",
                                               "batch_norm_backward",
                                               "residual_add_backward",
                                               "max_pool",
                                               "max_pool_backward",
                                               "average_pool",
                                               "average_pool_backward",
                                               "picture_batch",
                                               "implicit_gemm",
                                               "fft",
                                               "streaming",
                                               "host_copy",
                                               "custom",
                                               "timed"};

}  // namespace

const char* name(Op op) { return op_names.at(static_cast<std::size_t>(op)); }

bool is_elementwise(Op op) {
  switch (op) {
    case Op::bias_activation:
    case Op::bias_activation_backward:
    case Op::norm:
    case Op::norm_backward:
    case Op::rotary:
    case Op::gated_activation:
    case Op::gated_activation_backward:
    case Op::residual_add:
    case Op::residual_add_backward:
    case Op::batch_norm:
    case Op::batch_norm_backward:
    case Op::max_pool:
    case Op::max_pool_backward:
    case Op::average_pool:
    case Op::average_pool_backward:
    case Op::add_positions:
    case Op::positions_backward:
    case Op::streaming:
      return true;
    default:
      return false;
  }
}

bool Kernel::operator==(const Kernel& o) const {
  return op == o.op && dtype == o.dtype && transpose_a == o.transpose_a &&
         transpose_b == o.transpose_b && accumulate == o.accumulate && activation == o.activation &&
         dims == o.dims && scalars == o.scalars && part == o.part && seed == o.seed &&
         roles == o.roles && std::string_view(label) == o.label && body == o.body && text == o.text;
}

std::size_t Kernel::hash() const {
  std::uint64_t h = static_cast<std::uint64_t>(op) * 0x9e3779b97f4a7c15ULL;
  const auto mix = [&h](std::uint64_t v) { h = std::rotl(h ^ v, 29) * 0xbf58476d1ce4e5b9ULL; };
  for (std::int64_t d : dims) mix(static_cast<std::uint64_t>(d));
  for (double s : scalars) mix(std::bit_cast<std::uint64_t>(s));
  mix(static_cast<std::uint64_t>(dtype) | (static_cast<std::uint64_t>(activation) << 16) |
      (transpose_a ? 256U : 0U) | (transpose_b ? 512U : 0U) | (accumulate ? 1024U : 0U));
  mix(seed);
  mix(static_cast<std::uint64_t>(part.index) | (static_cast<std::uint64_t>(part.of) << 31) |
      (part.zigzag ? 1ULL << 63 : 0));
  mix(roles);
  mix(reinterpret_cast<std::uintptr_t>(body.get()) ^ reinterpret_cast<std::uintptr_t>(text.get()));
  return h;
}

// dims: m, n, k, 1 with a bias
Kernel Kernel::gemm(std::int64_t m, std::int64_t n, std::int64_t k, Dtype dtype, bool transpose_a,
                    bool transpose_b, bool accumulate, const char* label) {
  Kernel kernel = make(Op::gemm, dtype, {m, n, k}, {r, r, accumulate ? u : w}, label);
  kernel.transpose_a = transpose_a;
  kernel.transpose_b = transpose_b;
  kernel.accumulate = accumulate;
  return kernel;
}

Kernel Kernel::gemm_bias(std::int64_t m, std::int64_t n, std::int64_t k, Dtype dtype,
                         const char* label) {
  return make(Op::gemm, dtype, {m, n, k, 1}, {r, r, w, r}, label);
}

// dims: rows, cols, 1 with a bias
Kernel Kernel::bias_activation(std::int64_t rows, std::int64_t cols, Activation activation,
                               Dtype dtype, bool with_bias) {
  Kernel kernel = make(Op::bias_activation, dtype, {rows, cols, with_bias ? 1 : 0}, {r, r, w},
                       "bias_activation");
  kernel.activation = activation;
  return kernel;
}

Kernel Kernel::bias_activation_backward(std::int64_t rows, std::int64_t cols, Activation activation,
                                        Dtype dtype, bool with_bias) {
  Kernel kernel = make(Op::bias_activation_backward, dtype, {rows, cols, with_bias ? 1 : 0},
                       {r, r, r, w}, "bias_activation_backward");
  kernel.activation = activation;
  return kernel;
}

Kernel Kernel::column_sum(std::int64_t rows, std::int64_t cols, Dtype dtype) {
  return make(Op::column_sum, dtype, {rows, cols}, {r, u}, "column_sum");
}

// dims: rows, cols, vocabulary, first token, 1 for a part
Kernel Kernel::embedding(std::int64_t rows, std::int64_t cols, std::int64_t vocabulary, Dtype dtype,
                         std::int64_t first, bool part) {
  return make(Op::embedding, dtype, {rows, cols, vocabulary, first, part ? 1 : 0}, {r, r, w},
              "embedding");
}

Kernel Kernel::embedding_backward(std::int64_t rows, std::int64_t cols, std::int64_t vocabulary,
                                  Dtype dtype, std::int64_t first, bool part) {
  return make(Op::embedding_backward, dtype, {rows, cols, vocabulary, first, part ? 1 : 0},
              {r, r, u}, "embedding_backward");
}

// dims: rows, vocabulary; scalars: scale
Kernel Kernel::cross_entropy(std::int64_t rows, std::int64_t vocabulary, double scale,
                             Dtype dtype) {
  Kernel kernel = make(Op::cross_entropy, dtype, {rows, vocabulary}, {u, r, u}, "cross_entropy");
  kernel.scalars[0] = scale;
  return kernel;
}

// dims: rows, cols
Kernel Kernel::row_maximum(std::int64_t rows, std::int64_t cols, Dtype dtype) {
  return make(Op::row_maximum, dtype, {rows, cols}, {r, w}, "row_maximum");
}

// dims: rows, cols, first token
Kernel Kernel::softmax_sums(std::int64_t rows, std::int64_t cols, std::int64_t first, Dtype dtype) {
  return make(Op::softmax_sums, dtype, {rows, cols, first}, {u, r, r, w}, "softmax_sums");
}

// dims: rows, cols, first token; scalars: scale
Kernel Kernel::softmax_gradient(std::int64_t rows, std::int64_t cols, std::int64_t first,
                                double scale, Dtype dtype) {
  Kernel kernel =
      make(Op::softmax_gradient, dtype, {rows, cols, first}, {u, r, r, u}, "softmax_gradient");
  kernel.scalars[0] = scale;
  return kernel;
}

// dims: elements; scalars: a, b
Kernel Kernel::linear_combination(std::int64_t elements, double a, double b, Dtype dtype,
                                  bool with_scalars) {
  Kernel kernel =
      with_scalars
          ? make(Op::linear_combination, dtype, {elements}, {r, u, r, r}, "linear_combination")
          : make(Op::linear_combination, dtype, {elements}, {r, u}, "linear_combination");
  kernel.scalars[0] = a;
  kernel.scalars[1] = b;
  return kernel;
}

// dims: elements; scalars: value
Kernel Kernel::fill(std::int64_t elements, double value, Dtype dtype) {
  Kernel kernel = make(Op::fill, dtype, {elements}, {w}, "fill");
  kernel.scalars[0] = value;
  return kernel;
}

// dims: elements, source type
Kernel Kernel::cast(std::int64_t elements, Dtype from, Dtype to) {
  return make(Op::cast, to, {elements, static_cast<std::int64_t>(from)}, {r, w}, "cast");
}

// dims: elements; scalars: weight
Kernel Kernel::sum_squares(std::int64_t elements, Dtype dtype, double weight) {
  Kernel kernel = make(Op::sum_squares, dtype, {elements}, {r, u}, "sum_squares");
  kernel.scalars[0] = weight;
  return kernel;
}

// scalars: maximum norm
Kernel Kernel::clip_scale(double max_norm) {
  Kernel kernel = make(Op::clip_scale, Dtype::fp32, {1}, {r, w}, "clip_scale");
  kernel.scalars[0] = max_norm;
  return kernel;
}

// dims: elements, nesterov, types of g and of m; scalars: lr, momentum, weight decay. Operands p,
// g, m, master, scale, step.
Kernel Kernel::sgd(std::int64_t elements, double lr, double momentum, bool nesterov,
                   double weight_decay, Dtype dtype, Dtype gradient, Dtype moments) {
  Kernel kernel = make(Op::sgd, dtype,
                       {elements, nesterov ? 1 : 0, static_cast<std::int64_t>(gradient),
                        static_cast<std::int64_t>(moments)},
                       {u, r, u, u, r, r}, "sgd");
  kernel.scalars = {lr, momentum, weight_decay};
  return kernel;
}

// dims: elements, types of g and of m and v; scalars: lr, beta1, beta2, epsilon, weight decay.
// Operands p, g, m, v, master, scale, step.
Kernel Kernel::adamw(std::int64_t elements, double lr, double beta1, double beta2, double epsilon,
                     double weight_decay, Dtype dtype, Dtype gradient, Dtype moments) {
  Kernel kernel =
      make(Op::adamw, dtype,
           {elements, static_cast<std::int64_t>(gradient), static_cast<std::int64_t>(moments)},
           {u, r, u, u, u, r, r}, "adamw");
  kernel.scalars = {lr, beta1, beta2, epsilon, weight_decay};
  return kernel;
}

Kernel Kernel::initialise(std::int64_t elements, std::int64_t first_global_element,
                          double deviation, std::uint64_t seed, std::uint64_t tensor_number,
                          Dtype dtype) {
  return initialise_columns(1, elements, elements, first_global_element, elements, deviation, seed,
                            tensor_number, dtype);
}

// dims: rows, cols, tensor number, stride, first global element, global stride; scalars: deviation.
// What lies between the columns is kept.
Kernel Kernel::initialise_columns(std::int64_t rows, std::int64_t cols, std::int64_t stride,
                                  std::int64_t first, std::int64_t global_stride, double deviation,
                                  std::uint64_t seed, std::uint64_t tensor_number, Dtype dtype) {
  Kernel kernel =
      make(Op::initialise, dtype,
           {rows, cols, static_cast<std::int64_t>(tensor_number), stride, first, global_stride},
           {rows == 1 || stride == cols ? w : u}, "initialise");
  kernel.scalars[0] = deviation;
  kernel.seed = seed;
  return kernel;
}

// dims: samples, context, targets per sample, stride
Kernel Kernel::text_batch(std::int64_t samples, std::int64_t context, std::uint64_t seed,
                          std::shared_ptr<const std::string> text, std::int64_t targets_per_sample,
                          std::int64_t stride, SequencePart part) {
  Kernel kernel = make(Op::text_batch, Dtype::int32, {samples, context, targets_per_sample, stride},
                       {r, w, w}, "text_batch");
  kernel.part = part;
  kernel.seed = seed;
  kernel.text = std::move(text);
  return kernel;
}

// dims: rows, cols, kind; scalars: epsilon
Kernel Kernel::norm(std::int64_t rows, std::int64_t cols, Norm kind, double epsilon, Dtype dtype) {
  Kernel kernel =
      make(Op::norm, dtype, {rows, cols, static_cast<std::int64_t>(kind)}, {r, r, r, w}, "norm");
  kernel.scalars[0] = epsilon;
  return kernel;
}

// dims: rows, cols, kind, 1 with a skip
Kernel Kernel::norm_backward(std::int64_t rows, std::int64_t cols, Norm kind, double epsilon,
                             bool with_skip, Dtype dtype) {
  Kernel kernel = make(Op::norm_backward, dtype,
                       {rows, cols, static_cast<std::int64_t>(kind), with_skip ? 1 : 0},
                       {r, r, r, r, u, u, w}, "norm_backward");
  kernel.scalars[0] = epsilon;
  return kernel;
}

// dims: batch, sequence, heads, heads per token, head_size, inverse; scalars: theta
Kernel Kernel::rotary(std::int64_t batch, std::int64_t sequence, std::int64_t heads,
                      std::int64_t heads_per_token, std::int64_t head_size, double theta,
                      Dtype dtype, bool inverse, SequencePart part) {
  Kernel kernel =
      make(Op::rotary, dtype, {batch, sequence, heads, heads_per_token, head_size, inverse ? 1 : 0},
           {u}, inverse ? "rotary_backward" : "rotary");
  kernel.scalars[0] = theta;
  kernel.part = part;
  return kernel;
}

// dims: rows, cols of the result, 1 with a bias
Kernel Kernel::gated_activation(std::int64_t rows, std::int64_t cols, Activation activation,
                                Dtype dtype, bool with_bias) {
  Kernel kernel = make(Op::gated_activation, dtype, {rows, cols, with_bias ? 1 : 0}, {r, r, w},
                       "gated_activation");
  kernel.activation = activation;
  return kernel;
}

Kernel Kernel::gated_activation_backward(std::int64_t rows, std::int64_t cols,
                                         Activation activation, Dtype dtype, bool with_bias) {
  Kernel kernel = make(Op::gated_activation_backward, dtype, {rows, cols, with_bias ? 1 : 0},
                       {r, r, r, w}, "gated_activation_backward");
  kernel.activation = activation;
  return kernel;
}

// dims: rows, cols, 1 with a bias
Kernel Kernel::residual_add(std::int64_t rows, std::int64_t cols, Dtype dtype, bool with_bias,
                            Activation activation) {
  Kernel kernel =
      make(Op::residual_add, dtype, {rows, cols, with_bias ? 1 : 0}, {r, r, r, w}, "residual_add");
  kernel.activation = activation;
  return kernel;
}

// dims: rows, cols
Kernel Kernel::residual_add_backward(std::int64_t rows, std::int64_t cols, Activation activation,
                                     Dtype dtype) {
  Kernel kernel =
      make(Op::residual_add_backward, dtype, {rows, cols}, {r, r, r, w}, "residual_add_backward");
  kernel.activation = activation;
  return kernel;
}

// dims: rows, cols, sequence, first row
Kernel Kernel::add_positions(std::int64_t rows, std::int64_t cols, std::int64_t sequence,
                             Dtype dtype, std::int64_t first_row, SequencePart part) {
  Kernel kernel =
      make(Op::add_positions, dtype, {rows, cols, sequence, first_row}, {r, u}, "add_positions");
  kernel.part = part;
  return kernel;
}

Kernel Kernel::positions_backward(std::int64_t rows, std::int64_t cols, std::int64_t sequence,
                                  Dtype dtype, std::int64_t first_row, SequencePart part) {
  Kernel kernel = make(Op::positions_backward, dtype, {rows, cols, sequence, first_row}, {r, u},
                       "positions_backward");
  kernel.part = part;
  return kernel;
}

// dims: batch, heads, kv_heads, sequence of queries, head_size, which keys
Kernel Kernel::attention(std::int64_t batch, std::int64_t heads, std::int64_t kv_heads,
                         std::int64_t sequence, std::int64_t head_size, AttentionPart which,
                         Dtype dtype, SequencePart part) {
  Kernel kernel =
      make(Op::attention, dtype,
           {batch, heads, kv_heads, sequence, head_size, static_cast<std::int64_t>(which)},
           {r, r, r, w, w}, "attention");
  kernel.part = part;
  return kernel;
}

Kernel Kernel::attention_backward(std::int64_t batch, std::int64_t heads, std::int64_t kv_heads,
                                  std::int64_t sequence, std::int64_t head_size,
                                  AttentionPart which, Dtype dtype, SequencePart part) {
  Kernel kernel =
      make(Op::attention_backward, dtype,
           {batch, heads, kv_heads, sequence, head_size, static_cast<std::int64_t>(which)},
           {r, r, r, r, r, r, w, w, w}, "attention_backward");
  kernel.part = part;
  return kernel;
}

// dims: batch, heads, 0, sequence, head_size, which queries
Kernel Kernel::attention_merge(std::int64_t batch, std::int64_t heads, std::int64_t sequence,
                               std::int64_t head_size, AttentionPart which, Dtype dtype) {
  return make(Op::attention_merge, dtype,
              {batch, heads, 0, sequence, head_size, static_cast<std::int64_t>(which)},
              {u, u, r, r}, "attention_merge");
}

// dims: n_i, n_j, inner, stride_i, stride_j, inverse
Kernel Kernel::permute(std::int64_t n_i, std::int64_t n_j, std::int64_t inner,
                       std::int64_t stride_i, std::int64_t stride_j, Dtype dtype, bool inverse) {
  return inverse ? make(Op::permute, dtype, {n_i, n_j, inner, stride_i, stride_j, 1}, {u, r},
                        "permute_back")
                 : make(Op::permute, dtype, {n_i, n_j, inner, stride_i, stride_j, 0}, {r, w},
                        "permute");
}

// dims: batch, length, width, inverse
Kernel Kernel::reorder(std::int64_t batch, std::int64_t length, std::int64_t width, Dtype dtype,
                       SequencePart part, bool inverse) {
  Kernel kernel =
      make(Op::reorder, dtype, {batch, length, width, inverse ? 1 : 0}, {r, w}, "reorder");
  kernel.part = part;
  return kernel;
}

// dims: m, n, k, 0, groups
Kernel Kernel::grouped_gemm(std::int64_t groups, std::int64_t m, std::int64_t n, std::int64_t k,
                            Dtype dtype, bool transpose_a, bool transpose_b, bool accumulate,
                            const char* label) {
  Kernel kernel = gemm(m, n, k, dtype, transpose_a, transpose_b, accumulate, label);
  kernel.op = Op::grouped_gemm;
  kernel.dims[4] = groups;
  return kernel;
}

// dims: rows, experts, chosen, capacity, router
Kernel Kernel::route(std::int64_t rows, std::int64_t experts, std::int64_t chosen,
                     std::int64_t capacity, Router router, Dtype dtype) {
  return make(Op::route, dtype,
              {rows, experts, chosen, capacity, static_cast<std::int64_t>(router)}, {r, w, w, r, u},
              "route");
}

Kernel Kernel::route_backward(std::int64_t rows, std::int64_t experts, std::int64_t chosen,
                              Router router, Dtype dtype) {
  return make(Op::route_backward, dtype,
              {rows, experts, chosen, 0, static_cast<std::int64_t>(router)}, {r, r, r, r, w},
              "route_backward");
}

// dims: rows, width, chosen, places; scalars: scale
Kernel Kernel::dispatch(std::int64_t rows, std::int64_t width, std::int64_t chosen,
                        std::int64_t places, Dtype dtype) {
  return make(Op::dispatch, dtype, {rows, width, chosen, places}, {r, r, w}, "dispatch");
}

Kernel Kernel::dispatch_backward(std::int64_t rows, std::int64_t width, std::int64_t chosen,
                                 std::int64_t places, double scale, Dtype dtype) {
  Kernel kernel = make(Op::dispatch_backward, dtype, {rows, width, chosen, places}, {r, r, w},
                       "dispatch_backward");
  kernel.scalars[0] = scale;
  return kernel;
}

Kernel Kernel::combine(std::int64_t rows, std::int64_t width, std::int64_t chosen,
                       std::int64_t places, Dtype dtype) {
  return make(Op::combine, dtype, {rows, width, chosen, places}, {r, r, r, u}, "combine");
}

Kernel Kernel::combine_backward(std::int64_t rows, std::int64_t width, std::int64_t chosen,
                                std::int64_t places, double scale, Dtype dtype) {
  Kernel kernel = make(Op::combine_backward, dtype, {rows, width, chosen, places},
                       {r, r, r, r, w, w}, "combine_backward");
  kernel.scalars[0] = scale;
  return kernel;
}

}  // namespace orrery
