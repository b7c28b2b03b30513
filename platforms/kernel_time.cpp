#include "platforms/kernel_time.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "backend/core/error.hpp"
#include "backend/core/real.hpp"

namespace orrery {

namespace {

// The tile of the formula; part of the fit, not of a device.
constexpr int tile_m = 128, tile_n = 256;
// Beyond this side more waves cost more than short sides save.
constexpr std::int64_t longest_padding = 16384;

BytesPerSecond achieved_memory(const GpuSpec& gpu) {
  return gpu.memory.bandwidth.value * gpu.memory.achieved.value;
}

double efficiency(const EfficiencySpec& e, Dtype dtype) {
  const std::optional<Sourced<double>>* found = &e.bf16;
  if (dtype == Dtype::fp64) found = &e.fp64;
  if (dtype == Dtype::fp32) found = &e.fp32;
  if (dtype == Dtype::fp16) found = &e.fp16;
  if (dtype == Dtype::fp8) found = &e.fp8;
  if (dtype == Dtype::fp4) found = &e.fp4;
  if (*found) return (*found)->value;
  return e.bf16 ? e.bf16->value : 1.0;
}

// dims: batch, heads, heads of keys and values, sequence, head size.
Seconds unfused_attention_time(const Kernel& kernel, const GpuSpec& gpu,
                               const UnfusedAttentionSpec& unfused) {
  const double scores =
      real(kernel.dims[0]) * real(kernel.dims[1]) * real(kernel.dims[3]) * real(kernel.dims[3]);
  const double passes = kernel.op == Op::attention ? 1 : 2;
  const Flops products(4.0 * scores * real(kernel.dims[4]) * passes);
  return products / (gpu.peak(kernel.dtype).value * unfused.achieved.value) +
         Seconds(scores * real(unfused.bytes_per_score.value.value) / achieved_memory(gpu).value);
}

Seconds attention_time(const Kernel& kernel, const Cost& cost, const GpuSpec& gpu,
                       const StackSpec& stack) {
  if (stack.unfused_attention) return unfused_attention_time(kernel, gpu, *stack.unfused_attention);
  const AttentionSpec& row = attention_row(gpu, stack.attention, kernel.dims[4]);
  const double share = kernel.op == Op::attention ? row.forward.value : row.backward.value;
  const Seconds compute = cost.executed / (gpu.peak(kernel.dtype).value * share);
  return std::max(compute, (cost.read + cost.written) / achieved_memory(gpu));
}

// Of the bytes that a loss over the vocabulary moves: its three steps read, read and write, read
// and write the logits.
double share_of_loss(Op op) {
  if (op == Op::row_maximum) return 0.2;
  if (op == Op::softmax_sums || op == Op::softmax_gradient) return 0.4;
  return op == Op::cross_entropy ? 1 : 0;
}

// Bytes that the software really moves for this kernel.
double moved(const Kernel& kernel, const Cost& cost, const StackSpec& stack) {
  const double own = real((cost.read + cost.written).value);
  if (is_elementwise(kernel.op)) return own * stack.elementwise.value;
  const double loss = real(stack.loss_bytes_per_logit.value.value) * real(kernel.dims[0]) *
                      real(kernel.dims[1]) * share_of_loss(kernel.op);
  return std::max(own, loss);
}

Seconds streaming_time(const Kernel& kernel, const Cost& cost, const GpuSpec& gpu,
                       const StackSpec& stack) {
  const Seconds memory(moved(kernel, cost, stack) / achieved_memory(gpu).value);
  if (cost.vector.value <= 0 || !gpu.compute.peak.fp32) return memory;
  return std::max(memory, cost.vector / gpu.compute.peak.fp32->value);
}

}  // namespace

GemmConstants gemm_constants(const GpuSpec& gpu, Dtype dtype) {
  const GemmSpec& gemm = gpu.compute.gemm;
  return {gpu.peak(dtype).value,
          efficiency(gemm.efficiency, dtype),
          gemm.edge.value,
          gpu.compute.sm.value,
          gemm.launch.value,
          achieved_memory(gpu),
          Bytes(std::max<std::int64_t>(4, size_of(dtype)))};
}

namespace {

double tiles_of(double m, double n) { return std::ceil(m / tile_m) * std::ceil(n / tile_n); }

// FLOPs that the device could do in the time of the product, whose inner dimension is computed in
// `parts`: its own, half of them counted as the whole waves of tiles that they occupy, and more for
// every short side.
double gemm_work(double m, double n, double k, double parts, const GemmConstants& c) {
  const double waves = std::ceil(tiles_of(m, n) * parts / real(c.sm));
  const double useful = 2.0 * m * n * k;
  const double full = waves * 2.0 * tile_m * tile_n * (k / parts) * real(c.sm);
  return (0.5 * useful + 0.5 * full) * (1.0 + c.edge / m) * (1.0 + c.edge / n) *
         (1.0 + c.edge * parts / k);
}

// A side and the longer ones, powers of two, that it could be padded to.
std::vector<double> padded(std::int64_t side) {
  std::vector<double> sides{real(side)};
  for (std::int64_t longer = 1; longer <= longest_padding; longer *= 2)
    if (longer > side) sides.push_back(real(longer));
  return sides;
}

// Parts of the inner dimension, at least two, that tiles leave room for in a wave.
std::vector<double> splits(double tiles, const GemmConstants& c) {
  const double most = std::floor(real(c.sm) / tiles);
  std::vector<double> parts;
  for (double some = 2; some < most; some *= 2) parts.push_back(some);
  if (most >= 2) parts.push_back(most);
  return parts;
}

Seconds gemm_time(std::int64_t m, std::int64_t n, std::int64_t k, Bytes moved_bytes,
                  const GemmConstants& c, bool may_split) {
  if (m <= 0 || n <= 0 || k <= 0) return c.launch;
  const auto compute = [&](double rows, double columns, double parts) {
    return Seconds(gemm_work(rows, columns, real(k), parts, c) / (c.peak.value * c.efficiency));
  };
  Seconds least(HUGE_VAL);
  for (const double rows : padded(m))
    for (const double columns : padded(n)) {
      const Seconds whole = std::max(compute(rows, columns, 1), moved_bytes / c.memory);
      least = std::min(least, c.launch + whole);
      if (!may_split) continue;
      for (const double parts : splits(tiles_of(rows, columns), c)) {
        const Seconds sums(parts * real(m) * real(n) * real(c.sum.value) / c.memory.value);
        const Seconds all =
            std::max(compute(rows, columns, parts), moved_bytes / c.memory + sums) + sums;
        least = std::min(least, c.launch + all + c.launch);
      }
    }
  return least;
}

}  // namespace

Seconds gemm_time(std::int64_t m, std::int64_t n, std::int64_t k, Bytes moved_bytes,
                  const GemmConstants& c) {
  return gemm_time(m, n, k, moved_bytes, c, true);
}

namespace {

// Matrices of one size share the waves: as one matrix with as many tiles, whose inner dimension is
// not split. The GPU that holds the fullest experts has more of them.
Seconds grouped_gemm_time(const Kernel& kernel, const Cost& cost, const GemmConstants& c) {
  const std::int64_t groups = kernel.dims[4];
  const std::int64_t tall = (kernel.dims[0] + tile_m - 1) / tile_m * tile_m;
  const Seconds one = gemm_time(groups * tall, kernel.dims[1], kernel.dims[2], Bytes(0), c, false);
  const Seconds even = std::max(one, c.launch + (cost.read + cost.written) / c.memory);
  return c.launch + (even - c.launch) * std::max(1.0, kernel.scalars[grouped_load]);
}

}  // namespace

const AttentionSpec& attention_row(const GpuSpec& gpu, const std::string& kernel,
                                   std::int64_t head) {
  const AttentionSpec* best = nullptr;
  for (const AttentionSpec& row : gpu.compute.attention) {
    if (row.kernel != kernel) continue;
    const auto distance = [head](const AttentionSpec& r) { return std::abs(r.head.value - head); };
    if (best == nullptr || distance(row) < distance(*best) ||
        (distance(row) == distance(*best) && row.head.value < best->head.value))
      best = &row;
  }
  if (best == nullptr)
    throw Error(Category::config,
                fmt::format("{} has no figures for attention kernel '{}'", gpu.name, kernel))
        .with("hint", "add a row to compute.attention, or choose another stack");
  return *best;
}

Seconds kernel_time(const Kernel& kernel, const Cost& cost, const GpuSpec& gpu,
                    const StackSpec& stack) {
  const Seconds launch = gpu.compute.gemm.launch.value;
  switch (kernel.op) {
    case Op::timed:
      return Seconds(kernel.scalars[1]);
    case Op::custom:
      if (kernel.scalars[1] > 0) return Seconds(kernel.scalars[1]);
      return launch + streaming_time(kernel, cost, gpu, stack);
    case Op::gemm:
    case Op::implicit_gemm:
    case Op::convolution:
    case Op::convolution_input_gradient:
    case Op::convolution_weight_gradient: {
      const auto [m, n, k] = product_of(kernel);
      return gemm_time(m, n, k, cost.read + cost.written, gemm_constants(gpu, kernel.dtype));
    }
    case Op::grouped_gemm:
      return grouped_gemm_time(kernel, cost, gemm_constants(gpu, kernel.dtype));
    case Op::attention:
    case Op::attention_backward:
      return launch + attention_time(kernel, cost, gpu, stack);
    case Op::host_copy:
      if (!gpu.link.host) return launch + streaming_time(kernel, cost, gpu, stack);
      return launch + cost.read / gpu.link.host->bandwidth_per_direction.value;
    default:
      return launch + streaming_time(kernel, cost, gpu, stack);
  }
}

}  // namespace orrery
