// Cross-entropy of a softmax over the vocabulary, with its gradient in place of the logits.
#include <cmath>
#include <limits>

#include "backend/core/error.hpp"
#include "backend/cpu/math_fp32.hpp"
#include "backend/cpu/operands.hpp"
#include "backend/cpu/reduce.hpp"

namespace orrery::cpu {

namespace {

// Turns one row of logits into scale * (softmax - onehot); returns -log softmax[target]. The
// largest logit is subtracted first.
double row_loss(float* logits, std::int64_t vocabulary, std::int32_t target, float scale) {
  float largest = -std::numeric_limits<float>::infinity();
  for (std::int64_t i = 0; i < vocabulary; ++i) largest = logits[i] > largest ? logits[i] : largest;
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

}  // namespace orrery::cpu
