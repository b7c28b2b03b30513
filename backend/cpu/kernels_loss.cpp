// Cross-entropy of a softmax over the vocabulary, with its gradient in place of the logits: at
// once, and in the three steps between which parts of a vocabulary agree on maxima and sums.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "backend/core/error.hpp"
#include "backend/cpu/math_fp32.hpp"
#include "backend/cpu/operands.hpp"
#include "backend/cpu/reduce.hpp"

namespace orrery::cpu {

namespace {

// The largest element that is a number; in lanes, for vectors: a maximum has no order.
float maximum(const float* x, std::int64_t n) {
  constexpr std::int64_t lanes = 16;
  std::array<float, lanes> most;
  most.fill(-std::numeric_limits<float>::infinity());
  const std::int64_t whole = n - n % lanes;
  for (std::int64_t i = 0; i < whole; i += lanes)
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      float& m = most[static_cast<std::size_t>(lane)];
      m = x[i + lane] > m ? x[i + lane] : m;
    }
  for (std::int64_t i = whole; i < n; ++i) most[0] = x[i] > most[0] ? x[i] : most[0];
  return *std::max_element(most.begin(), most.end());
}

// Turns one row of logits into scale * (softmax - onehot); returns -log softmax[target]. The
// largest logit is subtracted first.
double row_loss(float* logits, std::int64_t vocabulary, std::int32_t target, float scale) {
  const float largest = maximum(logits, vocabulary);
  const double chosen = static_cast<double>(logits[target]) - static_cast<double>(largest);
  for (std::int64_t i = 0; i < vocabulary; ++i) logits[i] = exp_fp32(logits[i] - largest);
  const double sum =
      ordered_sum(vocabulary, [logits](std::int64_t i) { return static_cast<double>(logits[i]); });
  const auto inverse = static_cast<float>(1.0 / sum);
  for (std::int64_t i = 0; i < vocabulary; ++i) logits[i] = scale * (logits[i] * inverse);
  logits[target] -= scale;
  return std::log(sum) - chosen;
}

}  // namespace

void cross_entropy(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], vocabulary = kernel.dims[1];
  float* logits = operands.fp32(0, rows * vocabulary);
  const std::int32_t* targets = operands.int32(1, rows);
  float* loss = operands.fp32(2, 1);
  double sum = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    if (targets[row] < 0 || targets[row] >= vocabulary)
      throw Error(
          Category::invalid_program,
          "cross_entropy: target " + std::to_string(targets[row]) + " is outside the vocabulary")
          .with("row", std::to_string(row));
    sum += row_loss(logits + row * vocabulary, vocabulary, targets[row],
                    static_cast<float>(kernel.scalars[0]));
  }
  loss[0] = static_cast<float>(static_cast<double>(loss[0]) + kernel.scalars[0] * sum);
}

namespace {

// Where the target of `row` is in this part of the vocabulary, or -1.
std::int64_t local_target(const Kernel& kernel, const std::int32_t* targets, std::int64_t row) {
  const std::int64_t at = targets[row] - kernel.dims[2];
  return at >= 0 && at < kernel.dims[1] ? at : -1;
}

}  // namespace

void row_maximum(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  const float* logits = operands.fp32(0, rows * cols);
  float* maxima = operands.fp32(1, rows);
  for (std::int64_t row = 0; row < rows; ++row) maxima[row] = maximum(logits + row * cols, cols);
}

void softmax_sums(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  float* all = operands.fp32(0, rows * cols);
  const std::int32_t* targets = operands.int32(1, rows);
  const float* maxima = operands.fp32(2, rows);
  float* sums = operands.fp32(3, 2 * rows);
  for (std::int64_t row = 0; row < rows; ++row) {
    float* logits = all + row * cols;
    const float largest = maxima[row];
    const std::int64_t target = local_target(kernel, targets, row);
    sums[rows + row] = target < 0 ? 0.0F : logits[target] - largest;
    for (std::int64_t i = 0; i < cols; ++i) logits[i] = exp_fp32(logits[i] - largest);
    sums[row] = static_cast<float>(
        ordered_sum(cols, [logits](std::int64_t i) { return static_cast<double>(logits[i]); }));
  }
}

void softmax_gradient(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  float* all = operands.fp32(0, rows * cols);
  const std::int32_t* targets = operands.int32(1, rows);
  const float* sums = operands.fp32(2, 2 * rows);
  float* loss = operands.fp32(3, 1);
  const auto scale = static_cast<float>(kernel.scalars[0]);
  double sum = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    float* logits = all + row * cols;
    const auto inverse = static_cast<float>(1.0 / static_cast<double>(sums[row]));
    for (std::int64_t i = 0; i < cols; ++i) logits[i] = scale * (logits[i] * inverse);
    if (const std::int64_t target = local_target(kernel, targets, row); target >= 0)
      logits[target] -= scale;
    sum += std::log(static_cast<double>(sums[row])) - static_cast<double>(sums[rows + row]);
  }
  loss[0] = static_cast<float>(static_cast<double>(loss[0]) + kernel.scalars[0] * sum);
}

}  // namespace orrery::cpu
