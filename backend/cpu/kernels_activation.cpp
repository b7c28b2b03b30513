// Activation functions, alone and gating, forward and backward, and the sum over rows that is a
// bias's gradient.
#include <algorithm>
#include <array>
#include <vector>

#include "backend/cpu/math_fp32.hpp"
#include "backend/cpu/operands.hpp"

namespace orrery::cpu {

namespace {

constexpr float inverse_sqrt_2 = 0.70710678118654752F;
constexpr float inverse_sqrt_2_pi = 0.39894228040143268F;

float sigmoid(float x) { return 1.0F / (1.0F + exp_fp32(-x)); }

template <Activation activation>
float value(float x) {
  if constexpr (activation == Activation::relu) return x > 0.0F ? x : 0.0F;
  if constexpr (activation == Activation::gelu)
    return 0.5F * x * (1.0F + erf_fp32(x * inverse_sqrt_2));
  if constexpr (activation == Activation::silu) return x * sigmoid(x);
  return x;
}

// d act / dx. For gelu: Phi(x) + x phi(x).
template <Activation activation>
float slope(float x) {
  if constexpr (activation == Activation::relu) return x > 0.0F ? 1.0F : 0.0F;
  if constexpr (activation == Activation::gelu)
    return 0.5F * (1.0F + erf_fp32(x * inverse_sqrt_2)) +
           x * (inverse_sqrt_2_pi * exp_fp32(-0.5F * x * x));
  if constexpr (activation == Activation::silu) {
    const float s = sigmoid(x);
    return s + x * (s * (1.0F - s));
  }
  return 1.0F;
}

// Calls action.operator()<the kernel's activation>().
template <class Action>
void with_activation(const Kernel& kernel, const Action& action) {
  switch (kernel.activation) {
    case Activation::none:
      return action.template operator()<Activation::none>();
    case Activation::relu:
      return action.template operator()<Activation::relu>();
    case Activation::gelu:
      return action.template operator()<Activation::gelu>();
    case Activation::silu:
      return action.template operator()<Activation::silu>();
  }
}

// The bias operand, or zeros in its place (x + 0 is x, but for the sign of zero). One buffer per
// thread.
const float* bias_or_zeros(const Operands& operands, std::size_t operand, std::int64_t cols) {
  if (operands.has(operand)) return operands.fp32(operand, cols);
  thread_local std::vector<float> zeros;
  if (zeros.size() < static_cast<std::size_t>(cols)) zeros.resize(static_cast<std::size_t>(cols));
  return zeros.data();
}

}  // namespace

void bias_activation(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  const float* x = operands.fp32(0, rows * cols);
  const float* bias = bias_or_zeros(operands, 1, cols);
  float* y = operands.fp32(2, rows * cols);
  with_activation(kernel, [=]<Activation activation>() {
    for (std::int64_t row = 0; row < rows; ++row) {
      const float* in = x + row * cols;
      float* out = y + row * cols;
      for (std::int64_t i = 0; i < cols; ++i) out[i] = value<activation>(in[i] + bias[i]);
    }
  });
}

void bias_activation_backward(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  const float* dy = operands.fp32(0, rows * cols);
  const float* x = operands.fp32(1, rows * cols);
  const float* bias = bias_or_zeros(operands, 2, cols);
  float* dx = operands.fp32(3, rows * cols);
  with_activation(kernel, [=]<Activation activation>() {
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t at = row * cols;
      for (std::int64_t i = 0; i < cols; ++i)
        dx[at + i] = dy[at + i] * slope<activation>(x[at + i] + bias[i]);
    }
  });
}

void gated_activation(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  const float* x = operands.fp32(0, rows * 2 * cols);
  const float* bias = bias_or_zeros(operands, 1, 2 * cols);
  float* y = operands.fp32(2, rows * cols);
  with_activation(kernel, [=]<Activation activation>() {
    for (std::int64_t row = 0; row < rows; ++row) {
      const float* gate = x + row * 2 * cols;
      const float* up = gate + cols;
      float* out = y + row * cols;
      for (std::int64_t i = 0; i < cols; ++i)
        out[i] = value<activation>(gate[i] + bias[i]) * (up[i] + bias[cols + i]);
    }
  });
}

void gated_activation_backward(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  const float* dy = operands.fp32(0, rows * cols);
  const float* x = operands.fp32(1, rows * 2 * cols);
  const float* bias = bias_or_zeros(operands, 2, 2 * cols);
  float* dx = operands.fp32(3, rows * 2 * cols);
  with_activation(kernel, [=]<Activation activation>() {
    for (std::int64_t row = 0; row < rows; ++row) {
      const float* gate = x + row * 2 * cols;
      const float* up = gate + cols;
      const float* d = dy + row * cols;
      float* dgate = dx + row * 2 * cols;
      float* dup = dgate + cols;
      for (std::int64_t i = 0; i < cols; ++i) {
        const float g = gate[i] + bias[i];
        dgate[i] = d[i] * (up[i] + bias[cols + i]) * slope<activation>(g);
        dup[i] = d[i] * value<activation>(g);
      }
    }
  });
}

void residual_add(const Kernel& kernel, const Operands& operands) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  const float* x = operands.fp32(0, rows * cols);
  const float* y = operands.fp32(1, rows * cols);
  const float* bias = bias_or_zeros(operands, 2, cols);
  float* z = operands.fp32(3, rows * cols);
  with_activation(kernel, [=]<Activation activation>() {
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t at = row * cols;
      for (std::int64_t i = 0; i < cols; ++i)
        z[at + i] = value<activation>(x[at + i] + (y[at + i] + bias[i]));
    }
  });
}

void residual_add_backward(const Kernel& kernel, const Operands& operands) {
  const std::int64_t all = kernel.dims[0] * kernel.dims[1];
  const float* dy = operands.fp32(0, all);
  const float* x = operands.fp32(1, all);
  const float* y = operands.fp32(2, all);
  float* dx = operands.fp32(3, all);
  with_activation(kernel, [=]<Activation activation>() {
    for (std::int64_t i = 0; i < all; ++i) dx[i] = dy[i] * slope<activation>(x[i] + y[i]);
  });
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
