// Optimizer steps over a flat range, each element read and written once; formulas and operands as
// in backend/cpu/kernels_optimizers.cpp.
#include <cmath>

#include "backend/cuda/gpu/device.cuh"
#include "backend/cuda/gpu/kernels.hpp"

namespace orrery::cuda {

namespace {

__device__ double or_one(const Any& operand, std::int64_t i) {
  return operand.data == nullptr ? 1.0 : operand.get(i);
}

// The number that is stepped: the master's where there is one.
template <int width, class T>
__device__ Lanes<width> weights(const T* p, const float* master, std::int64_t i) {
  return master != nullptr ? load<width>(master + i) : load<width>(p + i);
}

template <class T, class G>
struct Sgd {
  T* p;
  const G* g;
  float *m, *master;
  Any scale_by, step;
  double rate;
  float momentum, decay;
  bool nesterov;
  template <int width>
  __device__ void run(std::int64_t i) const {
    const auto scale = static_cast<float>(or_one(scale_by, 0));
    const auto lr = static_cast<float>(rate * or_one(step, 1));
    Lanes<width> weight = weights<width>(p, master, i), mean{};
    if (m != nullptr) mean = load<width>(m + i);
    Lanes<width> averaged = load<width>(g + i);
#pragma unroll
    for (int j = 0; j < width; ++j) {
      const float gradient = averaged.at[j] = scale * averaged.at[j];
      if (m != nullptr) {
        mean.at[j] = momentum * mean.at[j] + gradient;
        averaged.at[j] = nesterov ? gradient + momentum * mean.at[j] : mean.at[j];
      }
      weight.at[j] -= lr * (averaged.at[j] + decay * weight.at[j]);
    }
    if (m != nullptr) store(m + i, mean);
    if (master != nullptr) store(master + i, weight);
    store(p + i, weight);
  }
};

struct AdamScalars {
  double lr, log_beta1, log_beta2;
  float beta1, beta2, rest1, rest2, epsilon;
  double decay;
};

// What a step's elements share.
struct AdamFactors {
  float scale, size, correction, keep;
};

template <class T, class G>
struct Adamw {
  T* p;
  const G* g;
  float *m, *v, *master;
  Any scale_by, step;
  AdamScalars a;
  AdamFactors by{};

  // By a warp each: no element is loaded before, and fp64 takes long one after the other. 1 - b^t
  // is -expm1(t log b).
  __device__ void prepare() {
    __shared__ AdamFactors found;
    if (threadIdx.x == 0)
      found.size = static_cast<float>(a.lr * step.get(1) / -expm1(step.get(0) * a.log_beta1));
    if (threadIdx.x == warp)
      found.correction = static_cast<float>(rsqrt(-expm1(step.get(0) * a.log_beta2)));
    if (threadIdx.x == 2 * warp)
      found.keep = static_cast<float>(1.0 - a.lr * step.get(1) * a.decay);
    if (threadIdx.x == 3 * warp) found.scale = static_cast<float>(or_one(scale_by, 0));
    __syncthreads();
    by = found;
  }
  template <int width>
  __device__ void run(std::int64_t i) const {
    // Behind the branch that is in `weights`, the others are loaded together.
    Lanes<width> weight = weights<width>(p, master, i);
    const Lanes<width> gradient = load<width>(g + i);
    Lanes<width> mean = load<width>(m + i), square = load<width>(v + i);
#pragma unroll
    for (int j = 0; j < width; ++j) {
      const float scaled = by.scale * gradient.at[j];
      mean.at[j] = a.beta1 * mean.at[j] + a.rest1 * scaled;
      square.at[j] = a.beta2 * square.at[j] + a.rest2 * (scaled * scaled);
      weight.at[j] = by.keep * weight.at[j] -
                     by.size * mean.at[j] / (sqrtf(square.at[j]) * by.correction + a.epsilon);
    }
    store(m + i, mean);
    store(v + i, square);
    if (master != nullptr) store(master + i, weight);
    store(p + i, weight);
  }
};

bool fp32_or_empty(Views views, std::initializer_list<std::size_t> places) {
  for (const std::size_t place : places)
    if (views[place].data != nullptr && views[place].dtype != Dtype::fp32) return false;
  return true;
}

}  // namespace

bool sgd(cudaStream_t stream, const Kernel& kernel, Views views) {
  return fp32_or_empty(views, {2, 3}) &&
         with_types(views[0].dtype, views[1].dtype, [&]<class T, class G>(T, G) {
           const Sgd<T, G> work{data<T>(views[0]),
                                data<G>(views[1]),
                                data<float>(views[2]),
                                data<float>(views[3]),
                                Any(views[4]),
                                Any(views[5]),
                                kernel.scalars[0],
                                static_cast<float>(kernel.scalars[1]),
                                static_cast<float>(kernel.scalars[2]),
                                kernel.dims[1] != 0};
           each<pack_width<float>>(stream, "sgd", kernel.dims[0], work, work.p, work.g, work.m,
                                   work.master);
         });
}

bool adamw(cudaStream_t stream, const Kernel& kernel, Views views) {
  const auto [lr, beta1, beta2, epsilon, decay, unused] = kernel.scalars;
  const auto narrow = [](double x) { return static_cast<float>(x); };
  const AdamScalars a{lr,
                      std::log(beta1),
                      std::log(beta2),
                      narrow(beta1),
                      narrow(beta2),
                      narrow(1.0 - beta1),
                      narrow(1.0 - beta2),
                      narrow(epsilon),
                      decay};
  return fp32_or_empty(views, {2, 3, 4}) &&
         with_types(views[0].dtype, views[1].dtype, [&]<class T, class G>(T, G) {
           const Adamw<T, G> work{data<T>(views[0]),     data<G>(views[1]),
                                  data<float>(views[2]), data<float>(views[3]),
                                  data<float>(views[4]), Any(views[5]),
                                  Any(views[6]),         a};
           each<pack_width<float>>(stream, "adamw", kernel.dims[0], work, work.p, work.g, work.m,
                                   work.v, work.master);
         });
}

}  // namespace orrery::cuda
