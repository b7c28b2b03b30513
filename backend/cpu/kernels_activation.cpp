// Bias and activation, forward and backward, and the sum over rows that is the bias's gradient.
#include <algorithm>
#include <array>

#include "backend/cpu/math_fp32.hpp"
#include "backend/cpu/operands.hpp"

namespace orrery::cpu {

namespace {

constexpr float inverse_sqrt_2 = 0.70710678118654752F;
constexpr float inverse_sqrt_2_pi = 0.39894228040143268F;

template <Activation activation>
float value(float x) {
  if constexpr (activation == Activation::relu) return x > 0.0F ? x : 0.0F;
  if constexpr (activation == Activation::gelu)
    return 0.5F * x * (1.0F + erf_fp32(x * inverse_sqrt_2));
  return x;
}

// d act / dx. For gelu: Phi(x) + x phi(x).
template <Activation activation>
float slope(float x) {
  if constexpr (activation == Activation::relu) return x > 0.0F ? 1.0F : 0.0F;
  if constexpr (activation == Activation::gelu)
    return 0.5F * (1.0F + erf_fp32(x * inverse_sqrt_2)) +
           x * (inverse_sqrt_2_pi * exp_fp32(-0.5F * x * x));
  return 1.0F;
}

template <Activation activation>
void forward(std::int64_t rows, std::int64_t cols, const float* x, const float* bias, float* y) {
  for (std::int64_t row = 0; row < rows; ++row, x += cols, y += cols)
    for (std::int64_t i = 0; i < cols; ++i) y[i] = value<activation>(x[i] + bias[i]);
}

template <Activation activation>
void backward(std::int64_t rows, std::int64_t cols, const float* dy, const float* x,
              const float* bias, float* dx) {
  for (std::int64_t row = 0; row < rows; ++row, dy += cols, x += cols, dx += cols)
    for (std::int64_t i = 0; i < cols; ++i) dx[i] = dy[i] * slope<activation>(x[i] + bias[i]);
}

}  // namespace

void bias_activation(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  const float* x = operands.fp32(0, rows * cols);
  const float* bias = operands.fp32(1, cols);
  float* y = operands.fp32(2, rows * cols);
  switch (kernel.activation) {
    case Activation::none:
      return forward<Activation::none>(rows, cols, x, bias, y);
    case Activation::relu:
      return forward<Activation::relu>(rows, cols, x, bias, y);
    case Activation::gelu:
      return forward<Activation::gelu>(rows, cols, x, bias, y);
  }
}

void bias_activation_backward(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  const float* dy = operands.fp32(0, rows * cols);
  const float* x = operands.fp32(1, rows * cols);
  const float* bias = operands.fp32(2, cols);
  float* dx = operands.fp32(3, rows * cols);
  switch (kernel.activation) {
    case Activation::none:
      return backward<Activation::none>(rows, cols, dy, x, bias, dx);
    case Activation::relu:
      return backward<Activation::relu>(rows, cols, dy, x, bias, dx);
    case Activation::gelu:
      return backward<Activation::gelu>(rows, cols, dy, x, bias, dx);
  }
}

// Each column is summed from the first row to the last, then added.
void column_sum(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  const float* x = operands.fp32(0, rows * cols);
  float* y = operands.fp32(1, cols);
  constexpr std::int64_t width = 128;
  std::array<float, width> sums;
  for (std::int64_t first = 0; first < cols; first += width) {
    const std::int64_t count = std::min(width, cols - first);
    sums.fill(0.0F);
    for (std::int64_t row = 0; row < rows; ++row)
      for (std::int64_t i = 0; i < count; ++i)
        sums[static_cast<std::size_t>(i)] += x[row * cols + first + i];
    for (std::int64_t i = 0; i < count; ++i) y[first + i] += sums[static_cast<std::size_t>(i)];
  }
}

}  // namespace orrery::cpu
