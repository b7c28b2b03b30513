// What the kernels share: element types, reductions in a fixed order, launching.
//
// Arithmetic is fp32 whatever the storage, as on the CPU; sums over rows and of a loss have an
// order of their own that depends on sizes alone, so that the same inputs give the same bits.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <span>

#include "backend/cuda/runtime.hpp"
#include "backend/kernel.hpp"

namespace orrery::cuda {

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline void store(float* to, float x) { *to = x; }
__device__ inline void store(__nv_bfloat16* to, float x) { *to = __float2bfloat16(x); }
__device__ inline void store(__half* to, float x) { *to = __float2half(x); }

// An operand whose type is known at run time only: biases, gains, scalars. Null data: left empty.
struct Any {
  void* data = nullptr;
  Dtype dtype = Dtype::fp32;
  explicit Any(const View& view) : data(view.data), dtype(view.dtype) {}
  __device__ double get(std::int64_t i) const {
    switch (dtype) {
      case Dtype::fp32:
        return static_cast<const float*>(data)[i];
      case Dtype::bf16:
        return widen(static_cast<const __nv_bfloat16*>(data)[i]);
      case Dtype::fp16:
        return widen(static_cast<const __half*>(data)[i]);
      case Dtype::fp64:
        return static_cast<const double*>(data)[i];
      case Dtype::int32:
        return static_cast<const std::int32_t*>(data)[i];
      case Dtype::int64:
        return static_cast<double>(static_cast<const std::int64_t*>(data)[i]);
      default:
        return static_cast<const std::uint8_t*>(data)[i];
    }
  }
  __device__ void set(std::int64_t i, double x) const {
    switch (dtype) {
      case Dtype::fp32:
        static_cast<float*>(data)[i] = static_cast<float>(x);
        return;
      case Dtype::bf16:
        store(static_cast<__nv_bfloat16*>(data) + i, static_cast<float>(x));
        return;
      case Dtype::fp16:
        store(static_cast<__half*>(data) + i, static_cast<float>(x));
        return;
      case Dtype::fp64:
        static_cast<double*>(data)[i] = x;
        return;
      case Dtype::int32:
        static_cast<std::int32_t*>(data)[i] = static_cast<std::int32_t>(llrint(x));
        return;
      case Dtype::int64:
        static_cast<std::int64_t*>(data)[i] = llrint(x);
        return;
      default:
        static_cast<std::uint8_t*>(data)[i] = static_cast<std::uint8_t>(llrint(x));
    }
  }
  __device__ float or_zero(std::int64_t i) const {
    return data == nullptr ? 0.0F : static_cast<float>(get(i));
  }
};

// Calls action(T{}) for the element type of the bulk operands; false for a type without kernels.
template <class Action>
bool with_type(Dtype dtype, const Action& action) {
  switch (dtype) {
    case Dtype::fp32:
      action(float{});
      return true;
    case Dtype::bf16:
      action(__nv_bfloat16{});
      return true;
    case Dtype::fp16:
      action(__half{});
      return true;
    default:
      return false;
  }
}

template <class T>
T* data(const View& view) {
  return static_cast<T*>(view.data);
}

// Whether the views at these places are of the kernel's type.
inline bool typed(const Kernel& kernel, std::span<const View> views,
                  std::initializer_list<std::size_t> places) {
  for (const std::size_t place : places)
    if (views[place].data != nullptr && views[place].dtype != kernel.dtype) return false;
  return true;
}

constexpr int threads = 256;
constexpr int warp = 32;

// Blocks for a loop over `work` that strides over the grid.
inline unsigned blocks(std::int64_t work) {
  const std::int64_t wanted = (work + threads - 1) / threads;
  return static_cast<unsigned>(wanted < 1 ? 1 : wanted > 65535 ? 65535 : wanted);
}
__device__ inline std::int64_t first_index() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline std::int64_t all_threads() {
  return static_cast<std::int64_t>(gridDim.x) * blockDim.x;
}

template <class Number>
__device__ Number warp_sum(Number x) {
  for (int offset = warp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(~0U, x, offset);
  return x;
}
__device__ inline float warp_max(float x) {
  for (int offset = warp / 2; offset > 0; offset /= 2)
    x = fmaxf(x, __shfl_xor_sync(~0U, x, offset));
  return x;
}
// Over a block of `threads`; every thread gets the result.
template <class Number>
__device__ Number block_sum(Number x) {
  __shared__ Number parts[threads / warp];
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % warp == 0) parts[threadIdx.x / warp] = x;
  __syncthreads();
  Number sum = 0;
  for (const Number part : parts) sum += part;
  return sum;
}
__device__ inline float block_max(float x) {
  __shared__ float parts[threads / warp];
  x = warp_max(x);
  __syncthreads();
  if (threadIdx.x % warp == 0) parts[threadIdx.x / warp] = x;
  __syncthreads();
  float most = parts[0];
  for (const float part : parts) most = fmaxf(most, part);
  return most;
}

inline void launched(const char* kernel) { check(cudaGetLastError(), kernel); }

// Memory for what comes next on a stream.
template <class T>
class Scratch {
 public:
  Scratch(std::int64_t elements, cudaStream_t stream) : stream_(stream) {
    check(cudaMallocAsync(reinterpret_cast<void**>(&data_),
                          static_cast<std::size_t>(elements) * sizeof(T), stream),
          "cudaMallocAsync");
  }
  ~Scratch() { cudaFreeAsync(data_, stream_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* get() const { return data_; }

 private:
  cudaStream_t stream_;
  T* data_ = nullptr;
};

}  // namespace orrery::cuda
