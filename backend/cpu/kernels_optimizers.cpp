// Optimizer steps. Where p is stored in 16 bits a master copy in fp32 may stand beside it: it is
// what is stepped, and p is its rounding. `scale` multiplies the gradient (clipping); `step` holds
// {t, lr multiplier}.
#include <algorithm>
#include <cmath>

#include "backend/cpu/operands.hpp"

namespace orrery::cpu {

namespace {

float* optional(const Operands& operands, std::size_t operand, std::int64_t n) {
  return operands.has(operand) ? operands.fp32(operand, n) : nullptr;
}

}  // namespace

// m = momentum m + g; g' = m, or g + momentum m (Nesterov); p -= lr (g' + decay p). As
// torch.optim.SGD without dampening, but for the decay, which stays out of the momentum.
void sgd(const Kernel& kernel, const Operands& operands) {
  const std::int64_t n = kernel.dims[0];
  float* p = operands.fp32(0, n);
  const float* g = operands.fp32(1, n);
  float* m = optional(operands, 2, n);
  float* master = optional(operands, 3, n);
  const auto scale = static_cast<float>(operands.scalar_or(4, 1.0));
  const auto lr =
      static_cast<float>(kernel.scalars[0] * (operands.has(5) ? operands.scalar(5, 1) : 1.0));
  const auto momentum = static_cast<float>(kernel.scalars[1]),
             decay = static_cast<float>(kernel.scalars[2]);
  const bool nesterov = kernel.dims[1] != 0;
  float* weights = master != nullptr ? master : p;
  if (m == nullptr)
    for (std::int64_t i = 0; i < n; ++i) weights[i] -= lr * (scale * g[i] + decay * weights[i]);
  else
    for (std::int64_t i = 0; i < n; ++i) {
      const float gradient = scale * g[i];
      m[i] = momentum * m[i] + gradient;
      const float averaged = nesterov ? gradient + momentum * m[i] : m[i];
      weights[i] -= lr * (averaged + decay * weights[i]);
    }
  if (master != nullptr) std::copy_n(master, n, p);
}

// Loshchilov and Hutter 2019, algorithm 2, with the bias corrections folded into two factors
// computed in double.
void adamw(const Kernel& kernel, const Operands& operands) {
  const std::int64_t n = kernel.dims[0];
  float* p = operands.fp32(0, n);
  const float* __restrict g = operands.fp32(1, n);
  float* __restrict m = operands.fp32(2, n);
  float* __restrict v = operands.fp32(3, n);
  float* master = optional(operands, 4, n);
  const auto scale = static_cast<float>(operands.scalar_or(5, 1.0));
  const double t = operands.scalar(6, 0), lr = kernel.scalars[0] * operands.scalar(6, 1);
  const auto beta1 = static_cast<float>(kernel.scalars[1]),
             beta2 = static_cast<float>(kernel.scalars[2]);
  const auto rest1 = static_cast<float>(1.0 - kernel.scalars[1]),
             rest2 = static_cast<float>(1.0 - kernel.scalars[2]);
  const auto epsilon = static_cast<float>(kernel.scalars[3]);
  const auto size = static_cast<float>(lr / (1.0 - std::pow(kernel.scalars[1], t)));
  const auto correction = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(kernel.scalars[2], t)));
  const auto keep = static_cast<float>(1.0 - lr * kernel.scalars[4]);
  float* __restrict weights = master != nullptr ? master : p;
  for (std::int64_t i = 0; i < n; ++i) {
    const float gradient = scale * g[i];
    m[i] = beta1 * m[i] + rest1 * gradient;
    v[i] = beta2 * v[i] + rest2 * (gradient * gradient);
    weights[i] = keep * weights[i] - size * m[i] / (std::sqrt(v[i]) * correction + epsilon);
  }
  if (master != nullptr) std::copy_n(master, n, p);
}

}  // namespace orrery::cpu
