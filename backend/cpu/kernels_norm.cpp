// Norms of rows, forward and backward. Sums over a row are taken in double, in an order that
// depends on its length only, and rounded once; all else is fp32.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/operands.hpp"
#include "backend/cpu/reduce.hpp"

namespace orrery::cpu {

namespace {

double wide(float x) { return static_cast<double>(x); }

// A row is normalised to (x - mean) * scale.
struct RowStatistics {
  float mean, scale;
};

RowStatistics statistics(const float* x, std::int64_t cols, Norm kind, double epsilon) {
  const auto n = static_cast<double>(cols);
  double mean = 0;
  if (kind == Norm::layer) mean = ordered_sum(cols, [x](std::int64_t i) { return wide(x[i]); }) / n;
  const double squares = ordered_sum(cols, [x, mean](std::int64_t i) {
    const double distance = wide(x[i]) - mean;
    return distance * distance;
  });
  return {static_cast<float>(mean), static_cast<float>(1.0 / std::sqrt(squares / n + epsilon))};
}

// What one row's backward reads and writes. dgain and dbias are sums over rows.
struct RowGradient {
  const float *dy, *x, *gain, *skip;
  float *dgain, *dbias, *dx;
};

// With n = (x - mean) scale and d = dY gain:  dX = scale (d - mean(d) - n mean(d n)), where an RMS
// norm has no mean(d).
void row_backward(const RowGradient& row, std::int64_t cols, Norm kind, const RowStatistics& s) {
  const auto n = static_cast<double>(cols);
  const auto normed = [&](std::int64_t i) { return (row.x[i] - s.mean) * s.scale; };
  const double along = ordered_sum(
      cols, [&](std::int64_t i) { return wide(row.dy[i] * row.gain[i]) * wide(normed(i)); });
  const double sum = kind == Norm::rms ? 0.0 : ordered_sum(cols, [&](std::int64_t i) {
    return wide(row.dy[i] * row.gain[i]);
  });
  const auto projection = static_cast<float>(along / n), mean = static_cast<float>(sum / n);
  for (std::int64_t i = 0; i < cols; ++i) row.dgain[i] += row.dy[i] * normed(i);
  if (row.dbias != nullptr)
    for (std::int64_t i = 0; i < cols; ++i) row.dbias[i] += row.dy[i];
  for (std::int64_t i = 0; i < cols; ++i) {
    const float own = s.scale * (row.dy[i] * row.gain[i] - mean - normed(i) * projection);
    row.dx[i] = row.skip != nullptr ? row.skip[i] + own : own;
  }
}

}  // namespace

void norm(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  const auto kind = static_cast<Norm>(kernel.dims[2]);
  const float* x = operands.fp32(0, rows * cols);
  const float* gain = operands.fp32(1, cols);
  const float* bias = operands.has(2) ? operands.fp32(2, cols) : nullptr;
  float* y = operands.fp32(3, rows * cols);
  for (std::int64_t row = 0; row < rows; ++row, x += cols, y += cols) {
    const auto [mean, scale] = statistics(x, cols, kind, kernel.scalars[0]);
    for (std::int64_t i = 0; i < cols; ++i) y[i] = (x[i] - mean) * scale * gain[i];
    if (bias != nullptr)
      for (std::int64_t i = 0; i < cols; ++i) y[i] += bias[i];
  }
}

// The gradients of gain and bias are summed from the first row to the last, then added.
void norm_backward(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  const auto kind = static_cast<Norm>(kernel.dims[2]);
  const bool with_bias = operands.has(5);
  RowGradient row{};
  row.dy = operands.fp32(0, rows * cols);
  row.x = operands.fp32(1, rows * cols);
  row.gain = operands.fp32(2, cols);
  row.skip = operands.has(3) ? operands.fp32(3, rows * cols) : nullptr;
  row.dx = operands.fp32(6, rows * cols);
  thread_local std::vector<float> sums;
  sums.assign(static_cast<std::size_t>(2 * cols), 0.0F);
  row.dgain = sums.data();
  row.dbias = with_bias ? sums.data() + cols : nullptr;
  for (std::int64_t i = 0; i < rows; ++i) {
    row_backward(row, cols, kind, statistics(row.x, cols, kind, kernel.scalars[0]));
    row.dy += cols, row.x += cols, row.dx += cols;
    if (row.skip != nullptr) row.skip += cols;
  }
  float* dgain = operands.fp32(4, cols);
  for (std::int64_t i = 0; i < cols; ++i) dgain[i] += row.dgain[i];
  if (!with_bias) return;
  float* dbias = operands.fp32(5, cols);
  for (std::int64_t i = 0; i < cols; ++i) dbias[i] += row.dbias[i];
}

}  // namespace orrery::cpu
