// What the kernels share: element types, accesses of 16 bytes, loops, reductions in a fixed order,
// launching.
//
// Arithmetic is fp32 whatever the storage, as on the CPU; sums over rows and of a loss have an
// order of their own that depends on sizes and the GPU alone, so that the same inputs give the same
// bits. A sum of many elements takes a few of them in fp32, then adds to an fp64 sum: turning every
// element into fp64 would keep the units for that as busy as the memory.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <type_traits>

#include "backend/cuda/runtime.hpp"
#include "backend/kernel.hpp"

namespace orrery::cuda {

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline void store(float* to, float x) { *to = x; }
__device__ inline void store(__nv_bfloat16* to, float x) { *to = __float2bfloat16(x); }
__device__ inline void store(__half* to, float x) { *to = __float2half(x); }

// `width` elements in one access; at most 16 bytes.
template <class T, int width>
struct alignas(width * sizeof(T)) Pack {
  T at[width];
};
// What so many bytes move as: of a struct of small members the compiler makes narrower accesses.
template <std::size_t bytes>
using Word = std::conditional_t<
    bytes == 16, uint4,
    std::conditional_t<
        bytes == 8, uint2,
        std::conditional_t<bytes == 4, std::uint32_t,
                           std::conditional_t<bytes == 2, std::uint16_t, std::uint8_t>>>>;
template <int width, class T>
__device__ Pack<T, width> take(const T* from) {
  static_assert(width * sizeof(T) <= 16);
  const auto word = *reinterpret_cast<const Word<width * sizeof(T)>*>(from);
  Pack<T, width> pack;
  memcpy(&pack, &word, sizeof word);
  return pack;
}
// Writes the bits of `value` to global memory in one access; an assignment may become several.
template <class Value>
__device__ void put_bits(void* to, const Value& value) {
  Word<sizeof value> word;
  memcpy(&word, &value, sizeof word);
  __stwb(static_cast<Word<sizeof value>*>(to), word);
}

// The same as numbers, in registers.
template <int width>
struct Lanes {
  float at[width];
};
template <class T, int width>
__device__ Lanes<width> widen(const Pack<T, width>& pack) {
  Lanes<width> x;
#pragma unroll
  for (int i = 0; i < width; ++i) x.at[i] = widen(pack.at[i]);
  return x;
}
// Elements of a type that are in one access of a thread that takes `width` of them.
template <class T>
constexpr int in_access(int width) {
  return std::min(width, 16 / static_cast<int>(sizeof(T)));
}
// `from` is aligned to in_access<T>(width) elements, here and below.
template <int width, class T>
__device__ Lanes<width> load(const T* from) {
  constexpr int each = in_access<T>(width);
  Lanes<width> x;
#pragma unroll
  for (int i = 0; i < width; i += each) {
    const Pack<T, each> pack = take<each>(from + i);
#pragma unroll
    for (int j = 0; j < each; ++j) x.at[i + j] = widen(pack.at[j]);
  }
  return x;
}
__device__ inline __nv_bfloat162 narrow(float x, float y, __nv_bfloat16) {
  return __floats2bfloat162_rn(x, y);
}
__device__ inline __half2 narrow(float x, float y, __half) { return __floats2half2_rn(x, y); }
__device__ inline float2 narrow(float x, float y, float) { return {x, y}; }
template <int width, class T>
__device__ void store(T* to, const Lanes<width>& x) {
  if constexpr (width == 1) {
    store(to, x.at[0]);
  } else {
    constexpr int each = in_access<T>(width);
#pragma unroll
    for (int i = 0; i < width; i += each) {
      decltype(narrow(0, 0, T{})) pairs[each / 2];
#pragma unroll
      for (int j = 0; j < each; j += 2) pairs[j / 2] = narrow(x.at[i + j], x.at[i + j + 1], T{});
      put_bits(to + i, pairs);
    }
  }
}

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
  // Elements i to i + width of a `bulk` type; zeros where there is no operand.
  template <int width>
  __device__ Lanes<width> lanes(std::int64_t i) const {
    if (data == nullptr) return {};
    if (dtype == Dtype::fp32) return load<width>(static_cast<const float*>(data) + i);
    if (dtype == Dtype::bf16) return load<width>(static_cast<const __nv_bfloat16*>(data) + i);
    return load<width>(static_cast<const __half*>(data) + i);
  }
  // Adds to elements i to i + width, of a `bulk` type.
  template <int width>
  __device__ void add(std::int64_t i, const Lanes<width>& x) const {
    if (dtype == Dtype::fp32) return add_to(static_cast<float*>(data) + i, x);
    if (dtype == Dtype::bf16) return add_to(static_cast<__nv_bfloat16*>(data) + i, x);
    add_to(static_cast<__half*>(data) + i, x);
  }

 private:
  template <int width, class T>
  static __device__ void add_to(T* to, const Lanes<width>& x) {
    Lanes<width> sum = load<width>(to);
#pragma unroll
    for (int j = 0; j < width; ++j) sum.at[j] += x.at[j];
    store(to, sum);
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

// Calls action(X{}, Y{}) for two of them; false also for two different 16-bit types.
template <class Action>
bool with_types(Dtype x, Dtype y, const Action& action) {
  bool done = false;
  with_type(x, [&]<class X>(X first) {
    with_type(y, [&]<class Y>(Y second) {
      if constexpr (std::is_same_v<X, Y> || std::is_same_v<X, float> || std::is_same_v<Y, float>) {
        action(first, second);
        done = true;
      }
    });
  });
  return done;
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

// Whether the views at these places, those left empty apart, are of types that bulk operands have.
inline bool bulk(std::span<const View> views, std::initializer_list<std::size_t> places) {
  for (const std::size_t place : places)
    if (views[place].data != nullptr && !with_type(views[place].dtype, [](auto) {})) return false;
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

// How many elements an operand has before one that is aligned for packs of `width`.
inline std::int64_t before_packs(const void* data, std::int64_t size, int width) {
  const std::int64_t bytes = std::min<std::int64_t>(width * size, 16);
  const auto off = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(data) %
                                             static_cast<std::uintptr_t>(bytes));
  return off == 0 ? 0 : (bytes - off) / size;
}
inline std::int64_t before_packs(const Any& operand, int width) {
  return before_packs(operand.data, size_of(operand.dtype), width);
}
template <class T>
std::int64_t before_packs(const T* operand, int width) {
  return before_packs(operand, sizeof(T), width);
}

// Whether rows of `cols` elements of all these operands, null ones apart, fall into packs.
template <class... Operand>
bool in_packs(int width, std::int64_t cols, const Operand&... operands) {
  return cols % width == 0 && ((before_packs(operands, width) == 0) && ...);
}

// Elements of the widest of these types in 16 bytes: what a thread takes at once.
template <class... T>
constexpr int pack_width = static_cast<int>(16 / std::max({sizeof(T)...}));

// Calls action(width) with the width of packs that rows of these operands fall into.
template <class T, class Action, class... Operand>
void with_width(std::int64_t cols, const Action& action, const Operand&... operands) {
  if (in_packs(pack_width<T>, cols, operands...))
    action(std::integral_constant<int, pack_width<T>>{});
  else
    action(std::integral_constant<int, 1>{});
}

// work.run<width>(i) for elements i to i + width: packs from element `head` on, then singly what
// is before and behind them. What elements share, work.prepare() finds, called by whole blocks.
template <int width, class Work>
__global__ void __launch_bounds__(threads)
    each_kernel(Work work, std::int64_t head, std::int64_t packs, std::int64_t n) {
  if constexpr (requires { work.prepare(); }) work.prepare();
  for (std::int64_t k = first_index(); k < packs; k += all_threads())
    work.template run<width>(head + k * width);
  for (std::int64_t k = first_index(); k < n - packs * width; k += all_threads())
    work.template run<1>(k < head ? k : k + packs * width);
}

inline void launched(const char* kernel) { check(cudaGetLastError(), kernel); }

inline int multiprocessors() {
  int gpu = 0, count = 0;
  check(cudaGetDevice(&gpu), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, gpu),
        "cudaDeviceGetAttribute");
  return count;
}

// n elements by each_kernel, `packs` of `width` from `head` on.
template <int width, class Work>
void start_each(cudaStream_t stream, const char* name, const Work& work, std::int64_t head,
                std::int64_t packs, std::int64_t n) {
  const std::int64_t most = std::max(packs, n - packs * width);
  std::int64_t grid = std::clamp<std::int64_t>((most + threads - 1) / threads, 1, 1 << 30);
  // As many blocks as run at once, where each has something to prepare.
  if constexpr (requires(Work w) { w.prepare(); }) {
    int per_multiprocessor = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor,
                                                        each_kernel<width, Work>, threads, 0),
          "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
    grid = std::min<std::int64_t>(grid, per_multiprocessor * multiprocessors());
  }
  each_kernel<width><<<static_cast<unsigned>(grid), threads, 0, stream>>>(work, head, packs, n);
  launched(name);
}

// Runs work on n elements, in packs where the operands agree on where packs begin: slices of flat
// buffers begin anywhere.
template <int width, class Work, class... T>
void each(cudaStream_t stream, const char* name, std::int64_t n, const Work& work,
          const T*... operands) {
  std::int64_t head = 0;
  ((head = std::max(head, operands == nullptr ? 0 : before_packs(operands, width))), ...);
  const bool together =
      ((operands == nullptr || before_packs(operands + head, width) == 0) && ...) && head < n;
  start_each<width>(stream, name, work, together ? head : 0, together ? (n - head) / width : 0, n);
}

// The same on rows of `cols` elements: no pack reaches into the next row.
template <int width, class Work, class... Operand>
void each_in_rows(cudaStream_t stream, const char* name, std::int64_t n, std::int64_t cols,
                  const Work& work, const Operand&... operands) {
  start_each<width>(stream, name, work, 0, in_packs(width, cols, operands...) ? n / width : 0, n);
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
// Over a block of whole warps; every thread gets the result.
template <class Number>
__device__ Number block_sum(Number x) {
  __shared__ Number parts[warp];
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % warp == 0) parts[threadIdx.x / warp] = x;
  __syncthreads();
  Number sum = 0;
  for (int i = 0; i < blockDim.x / warp; ++i) sum += parts[i];
  return sum;
}
__device__ inline float block_max(float x) {
  __shared__ float parts[warp];
  x = warp_max(x);
  __syncthreads();
  if (threadIdx.x % warp == 0) parts[threadIdx.x / warp] = x;
  __syncthreads();
  float most = parts[0];
  for (int i = 1; i < blockDim.x / warp; ++i) most = fmaxf(most, parts[i]);
  return most;
}

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
