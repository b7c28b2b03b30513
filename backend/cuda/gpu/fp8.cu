// Operands of products in 8 bits (backend/fp8.hpp): their largest magnitudes, and rounded copies in
// which the depth is contiguous, as cuBLASLt takes them.
#include <cuda_fp8.h>

#include "backend/cuda/gpu/device.cuh"
#include "backend/cuda/gpu/fp8_products.hpp"

namespace orrery::cuda {

namespace {

constexpr int largest_blocks = 512;  // each finds the largest of a part
constexpr int at_once = 16;          // rounded numbers in one access
constexpr int tile = 64;             // transposed at once, each way

// The largest of each block's part, NaN apart.
template <class T, int width>
__global__ void __launch_bounds__(threads)
    largest_kernel(const T* x, std::int64_t head, std::int64_t packs, std::int64_t n,
                   float* parts) {
  float most = 0;
  for (std::int64_t k = first_index(); k < packs; k += all_threads()) {
    const Lanes<width> lanes = load<width>(x + head + k * width);
#pragma unroll
    for (int i = 0; i < width; ++i) most = fmaxf(most, fabsf(lanes.at[i]));
  }
  for (std::int64_t k = first_index(); k < n - packs * width; k += all_threads())
    most = fmaxf(most, fabsf(widen(x[k < head ? k : k + packs * width])));
  most = block_max(most);
  if (threadIdx.x == 0) parts[blockIdx.x] = most;
}

__global__ void __launch_bounds__(threads)
    largest_of_parts_kernel(const float* parts, std::int64_t n, Any largest) {
  float most = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) most = fmaxf(most, parts[i]);
  most = block_max(most);
  if (threadIdx.x == 0) largest.set(0, most);
}

template <class T>
void find_largest(cudaStream_t stream, const T* x, std::int64_t n, const Any& largest) {
  constexpr int width = pack_width<T>;
  const std::int64_t head = std::min(n, before_packs(x, width));
  const Scratch<float> parts(largest_blocks, stream);
  largest_kernel<T, width>
      <<<largest_blocks, threads, 0, stream>>>(x, head, (n - head) / width, n, parts.get());
  largest_of_parts_kernel<<<1, threads, 0, stream>>>(parts.get(), largest_blocks, largest);
  launched("fp8.cast");
}

// As fp8_scale with a scale per tensor.
template <Float8 type>
__device__ float scale_of(const Any& of_largest) {
  const auto largest = static_cast<float>(of_largest.get(0));
  if (largest == 0 || !isfinite(largest)) return 1;
  return fminf(largest_of(type) / largest, 0x1.fffffep127F);
}

template <Float8 type>
__device__ __nv_fp8x2_storage_t rounded(float x, float y) {
  return __nv_cvt_float2_to_fp8x2({x, y}, __NV_SATFINITE,
                                  type == Float8::e4m3 ? __NV_E4M3 : __NV_E5M2);
}

__device__ void tell_inverse(float scale, float* inverse) {
  if (blockIdx.x == 0 && blockIdx.y == 0 && blockIdx.z == 0 && threadIdx.x == 0)
    *inverse = 1.0F / scale;
}

// y[rows, padded] from x[rows, depth], zeros behind each row.
template <class T, Float8 type, bool in_packs>
__global__ void __launch_bounds__(threads)
    round_kernel(const T* x, std::uint8_t* y, std::int64_t rows, std::int64_t depth,
                 std::int64_t padded, Any largest, float* inverse) {
  const float scale = scale_of<type>(largest);
  tell_inverse(scale, inverse);
  const std::int64_t in_row = padded / at_once;
  for (std::int64_t k = first_index(); k < rows * in_row; k += all_threads()) {
    const std::int64_t row = k / in_row, at = k % in_row * at_once;
    const T* from = x + row * depth + at;
    Lanes<at_once> lanes{};
    if constexpr (in_packs) {
      lanes = load<at_once>(from);
    } else {
#pragma unroll
      for (int i = 0; i < at_once; ++i)
        if (at + i < depth) lanes.at[i] = widen(from[i]);
    }
    __nv_fp8x2_storage_t pairs[at_once / 2];
#pragma unroll
    for (int i = 0; i < at_once; i += 2)
      pairs[i / 2] = rounded<type>(lanes.at[i] * scale, lanes.at[i + 1] * scale);
    put_bits(y + k * at_once, pairs);
  }
}

// The same from x[depth, rows], of each of several groups, a tile at a time through shared memory.
template <class T, Float8 type, bool in_packs>
__global__ void __launch_bounds__(threads)
    round_transposed_kernel(const T* x, std::uint8_t* y, std::int64_t rows, std::int64_t depth,
                            std::int64_t padded, Any largest, float* inverse) {
  constexpr int each = 4;  // numbers of a thread along a row of x
  __shared__ alignas(4) std::uint8_t tiles[tile][tile + each];
  const float scale = scale_of<type>(largest);
  tell_inverse(scale, inverse);
  const std::int64_t first_row = std::int64_t{blockIdx.x} * tile,
                     first_depth = std::int64_t{blockIdx.y} * tile;
  x += blockIdx.z * rows * depth;
  y += blockIdx.z * rows * padded;
  const int along = threadIdx.x % (tile / each) * each;
  for (int d = threadIdx.x / (tile / each); d < tile; d += threads / (tile / each)) {
    const std::int64_t row = first_row + along, at = first_depth + d;
    Lanes<each> lanes{};
    if (at < depth) {
      const T* from = x + at * rows + row;
      if (in_packs && row + each <= rows) {
        lanes = load<each>(from);
      } else {
#pragma unroll
        for (int i = 0; i < each; ++i)
          if (row + i < rows) lanes.at[i] = widen(from[i]);
      }
    }
    const __nv_fp8x2_storage_t pairs[2] = {rounded<type>(lanes.at[0] * scale, lanes.at[1] * scale),
                                           rounded<type>(lanes.at[2] * scale, lanes.at[3] * scale)};
    memcpy(&tiles[d][along], pairs, each);
  }
  __syncthreads();
  const int r = threadIdx.x / (tile / at_once), d = threadIdx.x % (tile / at_once) * at_once;
  if (first_row + r >= rows || first_depth + d >= padded) return;
  Pack<std::uint8_t, at_once> pack;
#pragma unroll
  for (int i = 0; i < at_once; ++i) pack.at[i] = tiles[d + i][r];
  put_bits(y + (first_row + r) * padded + first_depth + d, pack);
}
static_assert(threads == tile * tile / at_once, "each thread writes one pack of a tile");

template <class T, Float8 type>
void round_as(cudaStream_t stream, const Fp8Operand& o, std::uint8_t* y, const Any& largest,
              float* inverse) {
  const T* x = data<T>(o.x);
  const auto with_packs = [&](bool in_packs, const auto& action) {
    in_packs ? action(std::true_type{}) : action(std::false_type{});
  };
  if (!o.transposed)
    return with_packs(o.depth == o.padded && before_packs(x, at_once) == 0, [&](auto packs) {
      round_kernel<T, type, packs.value>
          <<<blocks(o.groups * o.rows * o.padded / at_once), threads, 0, stream>>>(
              x, y, o.groups * o.rows, o.depth, o.padded, largest, inverse);
      launched("fp8");
    });
  const auto tiles = [](std::int64_t n) { return static_cast<unsigned>((n + tile - 1) / tile); };
  const dim3 grid(tiles(o.rows), tiles(o.padded), static_cast<unsigned>(o.groups));
  with_packs(o.rows % 4 == 0 && before_packs(x, 4) == 0, [&](auto packs) {
    round_transposed_kernel<T, type, packs.value>
        <<<grid, threads, 0, stream>>>(x, y, o.rows, o.depth, o.padded, largest, inverse);
    launched("fp8");
  });
}

template <class T>
struct ToFp8 {
  const T* x;
  std::uint8_t* y;
  template <int width>
  __device__ void run(std::int64_t i) const {
    y[i] = __nv_cvt_float_to_fp8(widen(x[i]), __NV_SATFINITE, __NV_E4M3);
  }
};
template <class T>
struct FromFp8 {
  const std::uint8_t* x;
  T* y;
  template <int width>
  __device__ void run(std::int64_t i) const {
    store(y + i, __half2float(__half(__nv_cvt_fp8_to_halfraw(x[i], __NV_E4M3))));
  }
};

}  // namespace

bool fp8_cast(cudaStream_t stream, const Kernel& kernel, std::span<const View> views) {
  if (!is_fp8_cast(kernel)) return false;
  if (views.size() < 2 || views[1].data == nullptr) return true;
  return with_type(views[0].dtype, [&]<class T>(T) {
    find_largest(stream, data<T>(views[0]), views[0].elements, Any(views[1]));
  });
}

bool cast_in_fp8(cudaStream_t stream, const Kernel& kernel, std::span<const View> views) {
  const std::int64_t n = kernel.dims[0];
  if (views[1].dtype == Dtype::fp8)
    return with_type(views[0].dtype, [&]<class T>(T) {
      each<1>(stream, "cast", n, ToFp8<T>{data<T>(views[0]), data<std::uint8_t>(views[1])});
    });
  return views[0].dtype == Dtype::fp8 && with_type(views[1].dtype, [&]<class T>(T) {
           each<1>(stream, "cast", n, FromFp8<T>{data<std::uint8_t>(views[0]), data<T>(views[1])});
         });
}

bool round_to_fp8(cudaStream_t stream, const Fp8Operand& o, void* rounded, float* inverse) {
  return with_type(o.x.dtype, [&]<class T>(T) {
    const Scratch<float> found(1, stream);
    Any largest(o.largest);
    if (largest.data == nullptr) {
      largest = Any(View{found.get(), 1, Dtype::fp32});
      find_largest(stream, data<T>(o.x), o.groups * o.rows * o.depth, largest);
    }
    auto* y = static_cast<std::uint8_t*>(rounded);
    if (o.type == Float8::e4m3)
      round_as<T, Float8::e4m3>(stream, o, y, largest, inverse);
    else
      round_as<T, Float8::e5m2>(stream, o, y, largest, inverse);
  });
}

}  // namespace orrery::cuda
