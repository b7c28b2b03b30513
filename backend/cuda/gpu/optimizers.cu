// Optimizer steps over a flat range, each element read and written once; formulas and operands as
// in backend/cpu/kernels_optimizers.cpp.
#include "backend/cuda/gpu/device.cuh"
#include "backend/cuda/gpu/kernels.hpp"

namespace orrery::cuda {

namespace {

__device__ double or_one(const Any& operand, std::int64_t i) {
  return operand.data == nullptr ? 1.0 : operand.get(i);
}

template <class T, class G>
__global__ void sgd_kernel(T* p, const G* g, float* m, float* master, Any scale_by, Any step,
                           double rate, float momentum, float decay, bool nesterov,
                           std::int64_t n) {
  const auto scale = static_cast<float>(or_one(scale_by, 0));
  const auto lr = static_cast<float>(rate * or_one(step, 1));
  for (std::int64_t i = first_index(); i < n; i += all_threads()) {
    const float gradient = scale * widen(g[i]);
    float averaged = gradient;
    if (m != nullptr) {
      m[i] = momentum * m[i] + gradient;
      averaged = nesterov ? gradient + momentum * m[i] : m[i];
    }
    float weight = master != nullptr ? master[i] : widen(p[i]);
    weight -= lr * (averaged + decay * weight);
    if (master != nullptr) master[i] = weight;
    store(p + i, weight);
  }
}

struct Adam {
  double lr, beta1, beta2;
  float epsilon;
  double decay;
};

template <class T, class G>
__global__ void adamw_kernel(T* p, const G* g, float* m, float* v, float* master, Any scale_by,
                             Any step, Adam a, std::int64_t n) {
  const auto scale = static_cast<float>(or_one(scale_by, 0));
  const double t = step.get(0), lr = a.lr * step.get(1);
  const auto beta1 = static_cast<float>(a.beta1), beta2 = static_cast<float>(a.beta2);
  const auto rest1 = static_cast<float>(1.0 - a.beta1), rest2 = static_cast<float>(1.0 - a.beta2);
  const auto size = static_cast<float>(lr / (1.0 - pow(a.beta1, t)));
  const auto correction = static_cast<float>(1.0 / sqrt(1.0 - pow(a.beta2, t)));
  const auto keep = static_cast<float>(1.0 - lr * a.decay);
  for (std::int64_t i = first_index(); i < n; i += all_threads()) {
    const float gradient = scale * widen(g[i]);
    const float mi = m[i] = beta1 * m[i] + rest1 * gradient;
    const float vi = v[i] = beta2 * v[i] + rest2 * (gradient * gradient);
    float weight = master != nullptr ? master[i] : widen(p[i]);
    weight = keep * weight - size * mi / (sqrtf(vi) * correction + a.epsilon);
    if (master != nullptr) master[i] = weight;
    store(p + i, weight);
  }
}

bool fp32_or_empty(Views views, std::initializer_list<std::size_t> places) {
  for (const std::size_t place : places)
    if (views[place].data != nullptr && views[place].dtype != Dtype::fp32) return false;
  return true;
}

}  // namespace

bool sgd(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t n = kernel.dims[0];
  if (!fp32_or_empty(views, {2, 3})) return false;
  bool done = false;
  with_type(views[0].dtype, [&](auto p) {
    using T = decltype(p);
    done = with_type(views[1].dtype, [&](auto g) {
      using G = decltype(g);
      sgd_kernel<T, G><<<blocks(n), threads, 0, stream>>>(
          data<T>(views[0]), data<G>(views[1]), data<float>(views[2]), data<float>(views[3]),
          Any(views[4]), Any(views[5]), kernel.scalars[0], static_cast<float>(kernel.scalars[1]),
          static_cast<float>(kernel.scalars[2]), kernel.dims[1] != 0, n);
      launched("sgd");
    });
  });
  return done;
}

bool adamw(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t n = kernel.dims[0];
  if (!fp32_or_empty(views, {2, 3, 4})) return false;
  const Adam a{kernel.scalars[0], kernel.scalars[1], kernel.scalars[2],
               static_cast<float>(kernel.scalars[3]), kernel.scalars[4]};
  bool done = false;
  with_type(views[0].dtype, [&](auto p) {
    using T = decltype(p);
    done = with_type(views[1].dtype, [&](auto g) {
      using G = decltype(g);
      adamw_kernel<T, G><<<blocks(n), threads, 0, stream>>>(
          data<T>(views[0]), data<G>(views[1]), data<float>(views[2]), data<float>(views[3]),
          data<float>(views[4]), Any(views[5]), Any(views[6]), a, n);
      launched("adamw");
    });
  });
  return done;
}

}  // namespace orrery::cuda
