// Kernels that treat each element by itself, bound by memory.
#include "backend/cuda/gpu/device.cuh"
#include "backend/cuda/gpu/kernels.hpp"

namespace orrery::cuda {

namespace {

__device__ float sigmoid(float x) { return 1.0F / (1.0F + expf(-x)); }

__device__ float value(Activation activation, float x) {
  switch (activation) {
    case Activation::relu:
      return fmaxf(x, 0.0F);
    case Activation::gelu:
      return 0.5F * x * (1.0F + erff(x * 0.70710678118654752F));
    case Activation::silu:
      return x * sigmoid(x);
    default:
      return x;
  }
}

__device__ float slope(Activation activation, float x) {
  switch (activation) {
    case Activation::relu:
      return x > 0.0F ? 1.0F : 0.0F;
    case Activation::gelu:
      return 0.5F * (1.0F + erff(x * 0.70710678118654752F)) +
             x * (0.39894228040143268F * expf(-0.5F * x * x));
    case Activation::silu: {
      const float s = sigmoid(x);
      return s + x * (s * (1.0F - s));
    }
    default:
      return 1.0F;
  }
}

__global__ void fill_kernel(Any y, double value, std::int64_t n) {
  for (std::int64_t i = first_index(); i < n; i += all_threads()) y.set(i, value);
}

__global__ void cast_kernel(Any x, Any y, std::int64_t n) {
  for (std::int64_t i = first_index(); i < n; i += all_threads()) y.set(i, x.get(i));
}

// A coefficient 0 drops its term, so that y may hold anything when b is 0.
template <class T>
__global__ void combine_kernel(const T* x, T* y, double a, double b, Any by_a, Any by_b,
                               std::int64_t n) {
  const auto af = static_cast<float>(a * (by_a.data == nullptr ? 1 : by_a.get(0)));
  const auto bf = static_cast<float>(b * (by_b.data == nullptr ? 1 : by_b.get(0)));
  for (std::int64_t i = first_index(); i < n; i += all_threads()) {
    const float first = af == 0 ? 0 : af * widen(x[i]);
    store(y + i, bf == 0 ? first : first + bf * widen(y[i]));
  }
}

__global__ void combine_any_kernel(Any x, Any y, double a, double b, Any by_a, Any by_b,
                                   std::int64_t n) {
  if (by_a.data != nullptr) a *= by_a.get(0);
  if (by_b.data != nullptr) b *= by_b.get(0);
  for (std::int64_t i = first_index(); i < n; i += all_threads())
    y.set(i, (a == 0 ? 0 : a * x.get(i)) + (b == 0 ? 0 : b * y.get(i)));
}

template <class T>
__global__ void activation_kernel(const T* x, Any bias, T* y, std::int64_t n, std::int64_t cols,
                                  Activation activation) {
  for (std::int64_t i = first_index(); i < n; i += all_threads())
    store(y + i, value(activation, widen(x[i]) + bias.or_zero(i % cols)));
}

template <class T>
__global__ void activation_backward_kernel(const T* dy, const T* x, Any bias, T* dx, std::int64_t n,
                                           std::int64_t cols, Activation activation) {
  for (std::int64_t i = first_index(); i < n; i += all_threads())
    store(dx + i, widen(dy[i]) * slope(activation, widen(x[i]) + bias.or_zero(i % cols)));
}

template <class T>
__global__ void gated_kernel(const T* x, Any bias, T* y, std::int64_t n, std::int64_t cols,
                             Activation activation) {
  for (std::int64_t i = first_index(); i < n; i += all_threads()) {
    const std::int64_t col = i % cols, at = (i / cols) * 2 * cols + col;
    store(y + i, value(activation, widen(x[at]) + bias.or_zero(col)) *
                     (widen(x[at + cols]) + bias.or_zero(cols + col)));
  }
}

template <class T>
__global__ void gated_backward_kernel(const T* dy, const T* x, Any bias, T* dx, std::int64_t n,
                                      std::int64_t cols, Activation activation) {
  for (std::int64_t i = first_index(); i < n; i += all_threads()) {
    const std::int64_t col = i % cols, at = (i / cols) * 2 * cols + col;
    const float g = widen(x[at]) + bias.or_zero(col), d = widen(dy[i]);
    const float up = widen(x[at + cols]) + bias.or_zero(cols + col);
    store(dx + at, d * up * slope(activation, g));
    store(dx + at + cols, d * value(activation, g));
  }
}

template <class T>
__global__ void residual_kernel(const T* x, const T* y, Any bias, T* z, std::int64_t n,
                                std::int64_t cols) {
  for (std::int64_t i = first_index(); i < n; i += all_threads())
    store(z + i, widen(x[i]) + (widen(y[i]) + bias.or_zero(i % cols)));
}

Any optional(Views views, std::size_t place) {
  return Any(place < views.size() ? views[place] : View{});
}

}  // namespace

bool fill(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t n = kernel.dims[0];
  fill_kernel<<<blocks(n), threads, 0, stream>>>(Any(views[0]), kernel.scalars[0], n);
  launched("fill");
  return true;
}

bool cast(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t n = kernel.dims[0];
  cast_kernel<<<blocks(n), threads, 0, stream>>>(Any(views[0]), Any(views[1]), n);
  launched("cast");
  return true;
}

bool linear_combination(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t n = kernel.dims[0];
  const double a = kernel.scalars[0], b = kernel.scalars[1];
  const Any by_a = optional(views, 2), by_b = optional(views, 3);
  const bool alike = views[0].dtype == views[1].dtype;
  if (!alike || !with_type(views[0].dtype, [&](auto type) {
        using T = decltype(type);
        combine_kernel<T><<<blocks(n), threads, 0, stream>>>(data<T>(views[0]), data<T>(views[1]),
                                                             a, b, by_a, by_b, n);
      }))
    combine_any_kernel<<<blocks(n), threads, 0, stream>>>(Any(views[0]), Any(views[1]), a, b, by_a,
                                                          by_b, n);
  launched("linear_combination");
  return true;
}

bool bias_activation(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t cols = kernel.dims[1], n = kernel.dims[0] * cols;
  return typed(kernel, views, {0, 2}) && with_type(kernel.dtype, [&](auto type) {
           using T = decltype(type);
           activation_kernel<T><<<blocks(n), threads, 0, stream>>>(
               data<T>(views[0]), Any(views[1]), data<T>(views[2]), n, cols, kernel.activation);
           launched("bias_activation");
         });
}

bool bias_activation_backward(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t cols = kernel.dims[1], n = kernel.dims[0] * cols;
  return typed(kernel, views, {0, 1, 3}) && with_type(kernel.dtype, [&](auto type) {
           using T = decltype(type);
           activation_backward_kernel<T><<<blocks(n), threads, 0, stream>>>(
               data<T>(views[0]), data<T>(views[1]), Any(views[2]), data<T>(views[3]), n, cols,
               kernel.activation);
           launched("bias_activation_backward");
         });
}

bool gated_activation(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t cols = kernel.dims[1], n = kernel.dims[0] * cols;
  return typed(kernel, views, {0, 2}) && with_type(kernel.dtype, [&](auto type) {
           using T = decltype(type);
           gated_kernel<T><<<blocks(n), threads, 0, stream>>>(
               data<T>(views[0]), Any(views[1]), data<T>(views[2]), n, cols, kernel.activation);
           launched("gated_activation");
         });
}

bool gated_activation_backward(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t cols = kernel.dims[1], n = kernel.dims[0] * cols;
  return typed(kernel, views, {0, 1, 3}) && with_type(kernel.dtype, [&](auto type) {
           using T = decltype(type);
           gated_backward_kernel<T><<<blocks(n), threads, 0, stream>>>(
               data<T>(views[0]), data<T>(views[1]), Any(views[2]), data<T>(views[3]), n, cols,
               kernel.activation);
           launched("gated_activation_backward");
         });
}

bool residual_add(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t cols = kernel.dims[1], n = kernel.dims[0] * cols;
  return typed(kernel, views, {0, 1, 3}) && with_type(kernel.dtype, [&](auto type) {
           using T = decltype(type);
           residual_kernel<T><<<blocks(n), threads, 0, stream>>>(
               data<T>(views[0]), data<T>(views[1]), Any(views[2]), data<T>(views[3]), n, cols);
           launched("residual_add");
         });
}

}  // namespace orrery::cuda
