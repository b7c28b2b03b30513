// Kernels that sum over the columns of a row, a block per row, or over the rows of a column.
#include <cfloat>

#include "backend/cuda/gpu/device.cuh"
#include "backend/cuda/gpu/kernels.hpp"

namespace orrery::cuda {

namespace {

// Packs of a row that a thread keeps in registers; those behind them it reads again. A block has at
// most as many threads as have registers for that, which are a multiprocessor's too.
constexpr int kept = 2, row_threads_max = 512;

template <class T, int width>
struct Row {
  const T* data;
  Pack<T, width> first[kept];

  __device__ Row(const T* from, std::int64_t cols) : data(from) {
    if (from == nullptr) return;
#pragma unroll
    for (int u = 0; u < kept; ++u) {
      const std::int64_t i = static_cast<std::int64_t>(threadIdx.x + u * blockDim.x) * width;
      if (i < cols) first[u] = take<width>(from + i);
    }
  }
  __device__ Lanes<width> get(std::int64_t i, int u) const {
    return widen(u < kept ? first[u] : take<width>(data + i));
  }
};

// body(i, u) for each pack of a thread, which begins with element i and is number u of those kept,
// or, where u is `kept`, not kept.
template <int width, class Body>
__device__ void over_row(std::int64_t cols, const Body& body) {
  const std::int64_t step = static_cast<std::int64_t>(blockDim.x) * width;
  std::int64_t i = static_cast<std::int64_t>(threadIdx.x) * width;
#pragma unroll
  for (int u = 0; u < kept; ++u, i += step)
    if (i < cols) body(i, u);
  for (; i < cols; i += step) body(i, kept);
}

// As many threads as keep a whole row, where that is possible.
unsigned row_threads(std::int64_t cols, int width) {
  const std::int64_t packs = (cols + width - 1) / width, wanted = (packs + kept - 1) / kept;
  return static_cast<unsigned>(
      std::min<std::int64_t>((wanted + warp - 1) / warp * warp, row_threads_max));
}

// Sums over rows have two stages: blocks sum some rows each, `parts` of a sum in fp32, and
// add_parts adds those up in order.
constexpr int tile = 32, part_lanes = 32;

// to[col] += the sum of the parts [count, cols].
__global__ void add_parts_kernel(const float* parts, std::int64_t count, std::int64_t cols,
                                 Any to) {
  __shared__ double sums[part_lanes][tile];
  const int lane = threadIdx.x % tile, part_lane = threadIdx.x / tile;
  const std::int64_t col = static_cast<std::int64_t>(blockIdx.x) * tile + lane;
  double sum = 0;
  if (col < cols)
    for (std::int64_t part = part_lane; part < count; part += part_lanes)
      sum += parts[part * cols + col];
  sums[part_lane][lane] = sum;
  __syncthreads();
  if (part_lane != 0 || col >= cols) return;
  for (int i = 1; i < part_lanes; ++i) sum += sums[i][lane];
  to.set(col, to.get(col) + sum);
}

void add_parts(cudaStream_t stream, const float* parts, std::int64_t count, std::int64_t cols,
               const Any& to) {
  add_parts_kernel<<<static_cast<unsigned>((cols + tile - 1) / tile), tile * part_lanes, 0,
                     stream>>>(parts, count, cols, to);
  launched("add_parts");
}

// A block sums rows blockIdx.y * `deep` on, `deep` of them: a warp's lanes have `width` columns
// each, its warps every eighth row.
constexpr int row_lanes = threads / warp, at_once = 4;

template <class T, int width>
__global__ void __launch_bounds__(threads)
    column_parts_kernel(const T* x, float* parts, std::int64_t rows, std::int64_t cols,
                        std::int64_t deep) {
  __shared__ double sums[row_lanes][warp * width];
  const int lane = threadIdx.x % warp, row_lane = threadIdx.x / warp;
  const std::int64_t tile_begin = static_cast<std::int64_t>(blockIdx.x) * (warp * width);
  const std::int64_t col = tile_begin + lane * width, begin = blockIdx.y * deep;
  const std::int64_t end = begin + deep < rows ? begin + deep : rows;
  double sum[width] = {};
  if (col < cols)
    for (std::int64_t row = begin + row_lane; row < end; row += at_once * row_lanes) {
      Pack<T, width> packs[at_once];
#pragma unroll
      for (int k = 0; k < at_once; ++k)
        if (row + k * row_lanes < end)
          packs[k] = take<width>(x + (row + k * row_lanes) * cols + col);
      Lanes<width> few{};
#pragma unroll
      for (int k = 0; k < at_once; ++k)
        if (row + k * row_lanes < end) {
          const Lanes<width> value = widen(packs[k]);
#pragma unroll
          for (int j = 0; j < width; ++j) few.at[j] += value.at[j];
        }
#pragma unroll
      for (int j = 0; j < width; ++j) sum[j] += few.at[j];
    }
#pragma unroll
  for (int j = 0; j < width; ++j) sums[row_lane][lane * width + j] = sum[j];
  __syncthreads();
  for (int at = threadIdx.x; at < warp * width && tile_begin + at < cols; at += threads) {
    double whole = 0;
    for (int i = 0; i < row_lanes; ++i) whole += sums[i][at];
    parts[blockIdx.y * cols + tile_begin + at] = static_cast<float>(whole);
  }
}

template <class T>
void sum_columns(cudaStream_t stream, const T* x, std::int64_t rows, std::int64_t cols,
                 const Any& to) {
  with_width<T>(
      cols,
      [&](auto width_constant) {
        constexpr int width = width_constant;
        const std::int64_t tiles = (cols + warp * width - 1) / (warp * width);
        // Some blocks for each multiprocessor, and at least two turns of a block's loop.
        const std::int64_t wanted = std::max<std::int64_t>(8 * multiprocessors() / tiles, 1);
        const std::int64_t least = 2 * at_once * row_lanes;
        const std::int64_t deep = std::max((rows + wanted - 1) / wanted, least);
        const std::int64_t count = std::max<std::int64_t>((rows + deep - 1) / deep, 1);
        const Scratch<float> parts(count * cols, stream);
        const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(count));
        column_parts_kernel<T, width>
            <<<grid, threads, 0, stream>>>(x, parts.get(), rows, cols, deep);
        launched("column_sum");
        add_parts(stream, parts.get(), count, cols, to);
      },
      x);
}

// A row is normalised to (x - mean) * scale.
template <class T, int width>
__device__ float2 statistics(const Row<T, width>& row, std::int64_t cols, bool rms,
                             double epsilon) {
  float mean = 0;
  if (!rms) {
    double sum = 0;
    over_row<width>(cols, [&](std::int64_t i, int u) {
      const Lanes<width> x = row.get(i, u);
      float few = 0;
#pragma unroll
      for (int j = 0; j < width; ++j) few += x.at[j];
      sum += few;
    });
    mean = static_cast<float>(block_sum(sum) / static_cast<double>(cols));
  }
  double squares = 0;
  over_row<width>(cols, [&](std::int64_t i, int u) {
    const Lanes<width> x = row.get(i, u);
    float few = 0;
#pragma unroll
    for (int j = 0; j < width; ++j) few += (x.at[j] - mean) * (x.at[j] - mean);
    squares += few;
  });
  return {mean,
          static_cast<float>(rsqrt(block_sum(squares) / static_cast<double>(cols) + epsilon))};
}

template <class T, int width>
__global__ void __launch_bounds__(row_threads_max)
    norm_kernel(const T* x, Any gain, Any bias, T* y, std::int64_t cols, bool rms, double epsilon) {
  const Row<T, width> row(x + blockIdx.x * cols, cols);
  const float2 s = statistics(row, cols, rms, epsilon);
  y += blockIdx.x * cols;
  over_row<width>(cols, [&](std::int64_t i, int u) {
    Lanes<width> value = row.get(i, u);
    const Lanes<width> by = gain.lanes<width>(i), beside = bias.lanes<width>(i);
#pragma unroll
    for (int j = 0; j < width; ++j)
      value.at[j] = (value.at[j] - s.x) * s.y * by.at[j] + beside.at[j];
    store(y + i, value);
  });
}

// As backend/cpu/kernels_norm.cpp. A block takes every gridDim.x-th row, and sums the gradient of
// the gain over them: of the columns that are kept in registers, of others in its part itself.
template <class T, int width>
__global__ void __launch_bounds__(row_threads_max)
    norm_backward_kernel(const T* dy, const T* x, Any gain, const T* skip, T* dx, float* parts,
                         std::int64_t rows, std::int64_t cols, bool rms, double epsilon) {
  parts += blockIdx.x * cols;
  Lanes<width> of_gain[kept] = {};
  for (std::int64_t at = blockIdx.x; at < rows; at += gridDim.x) {
    const std::int64_t begin = at * cols;
    const Row<T, width> row(x + begin, cols), d_row(dy + begin, cols),
        skip_row(skip == nullptr ? nullptr : skip + begin, cols);
    const float2 s = statistics(row, cols, rms, epsilon);
    double along = 0, sum = 0;
    over_row<width>(cols, [&](std::int64_t i, int u) {
      const Lanes<width> value = row.get(i, u), d = d_row.get(i, u), by = gain.lanes<width>(i);
      Lanes<width> beyond{};
      if (u == kept && at != blockIdx.x) beyond = load<width>(parts + i);
      float few_along = 0, few = 0;
#pragma unroll
      for (int j = 0; j < width; ++j) {
        const float normed = (value.at[j] - s.x) * s.y, weighted = d.at[j] * by.at[j];
        few_along += weighted * normed;
        few += weighted;
        (u < kept ? of_gain[u] : beyond).at[j] += d.at[j] * normed;
      }
      along += few_along;
      sum += few;
      if (u == kept) store(parts + i, beyond);
    });
    const auto projection = static_cast<float>(block_sum(along) / static_cast<double>(cols));
    const auto mean = rms ? 0.0F : static_cast<float>(block_sum(sum) / static_cast<double>(cols));
    over_row<width>(cols, [&](std::int64_t i, int u) {
      const Lanes<width> value = row.get(i, u), d = d_row.get(i, u), by = gain.lanes<width>(i);
      Lanes<width> out{};
      if (skip != nullptr) out = skip_row.get(i, u);
#pragma unroll
      for (int j = 0; j < width; ++j) {
        const float normed = (value.at[j] - s.x) * s.y;
        out.at[j] += s.y * (d.at[j] * by.at[j] - mean - normed * projection);
      }
      store(dx + begin + i, out);
    });
  }
  over_row<width>(cols, [&](std::int64_t i, int u) {
    if (u < kept) store(parts + i, of_gain[u]);
  });
}

// A row of logits is read from global memory once as far as its first `stored` packs, which stay in
// shared memory; what is behind them has not left the L2 cache when it is read again.
template <class T, int width>
struct Logits {
  T* data;
  Pack<T, width>* shared;
  std::int64_t packs, stored;

  __device__ Pack<T, width> get(std::int64_t k) const {
    return k < stored ? shared[k] : take<width>(data + k * width);
  }
};

// The largest of some logits, and the sum of e^(logit - largest).
struct Softmax {
  float largest = -1e30F;  // of nothing: any finite number will do, and that may not overflow
  double sum = 0;
};

constexpr float log2_e = 1.44269504088896341F;

// e^(x - y) for y = shift / log2(e).
__device__ float exponential(float x, float shift) { return exp2f(fmaf(x, log2_e, -shift)); }

template <class T, int width>
__device__ void include(Softmax& so_far, const Pack<T, width>& pack) {
  const Lanes<width> x = widen(pack);
  float most = x.at[0];
#pragma unroll
  for (int j = 1; j < width; ++j) most = fmaxf(most, x.at[j]);
  if (most > so_far.largest) {
    so_far.sum *= exp2f((so_far.largest - most) * log2_e);
    so_far.largest = most;
  }
  const float shift = so_far.largest * log2_e;
  float few = 0;
#pragma unroll
  for (int j = 0; j < width; ++j) few += exponential(x.at[j], shift);
  so_far.sum += few;
}

// `by_row` gets -log softmax[target].
template <class T, int width>
__global__ void __launch_bounds__(1024)
    cross_entropy_kernel(T* all, const std::int32_t* targets, double* by_row,
                         std::int64_t vocabulary, std::int64_t stored, float scale) {
  extern __shared__ uint4 kept_logits[];
  const Logits<T, width> logits{all + blockIdx.x * vocabulary,
                                reinterpret_cast<Pack<T, width>*>(kept_logits), vocabulary / width,
                                stored};
  const std::int64_t target = targets[blockIdx.x];
  if (target < 0 || target >= vocabulary) __trap();
  const float chosen = widen(logits.data[target]);
  Softmax mine;
  const std::int64_t step = blockDim.x;
  for (std::int64_t k = threadIdx.x; k < logits.packs; k += at_once * step) {
    Pack<T, width> packs[at_once];
#pragma unroll
    for (int u = 0; u < at_once; ++u)
      if (k + u * step < logits.packs) packs[u] = take<width>(logits.data + (k + u * step) * width);
#pragma unroll
    for (int u = 0; u < at_once; ++u) {
      const std::int64_t at = k + u * step;
      if (at >= logits.packs) break;
      include(mine, packs[u]);
      if (at < stored) logits.shared[at] = packs[u];  // read back by this thread only
    }
  }
  const float largest = block_max(mine.largest), shift = largest * log2_e;
  // Its barriers are behind every thread's look at the target's logit.
  const double sum = block_sum(mine.sum * exp2f((mine.largest - largest) * log2_e));
  const auto factor = static_cast<float>(scale / sum);
  for (std::int64_t k = threadIdx.x; k < logits.packs; k += step) {
    Lanes<width> x = widen(logits.get(k));
#pragma unroll
    for (int j = 0; j < width; ++j)
      x.at[j] = factor * exponential(x.at[j], shift) - (k * width + j == target ? scale : 0.0F);
    store(logits.data + k * width, x);
  }
  if (threadIdx.x == 0)
    by_row[blockIdx.x] =
        log(sum) + static_cast<double>(shift) * 0.69314718055994531 - static_cast<double>(chosen);
}

constexpr unsigned sum_threads = 1024;

// to += weight * the sum of n numbers; one block.
__global__ void add_sum_kernel(const double* x, std::int64_t n, double weight, Any to) {
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += sum_threads) sum += x[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) to.set(0, to.get(0) + weight * sum);
}

// Packs from element `head` on, as each_kernel.
template <class T, int width>
__global__ void __launch_bounds__(threads)
    squares_kernel(const T* x, std::int64_t head, std::int64_t packs, std::int64_t n,
                   double* parts) {
  double sum = 0;
  for (std::int64_t k = first_index(); k < packs; k += at_once * all_threads()) {
    Pack<T, width> some[at_once] = {};
#pragma unroll
    for (int u = 0; u < at_once; ++u)
      if (k + u * all_threads() < packs)
        some[u] = take<width>(x + head + (k + u * all_threads()) * width);
#pragma unroll
    for (int u = 0; u < at_once; ++u) {
      const Lanes<width> value = widen(some[u]);
      float few = 0;
#pragma unroll
      for (int j = 0; j < width; ++j) few += value.at[j] * value.at[j];
      sum += few;
    }
  }
  for (std::int64_t k = first_index(); k < n - packs * width; k += all_threads()) {
    const double value = widen(x[k < head ? k : k + packs * width]);
    sum += value * value;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

__global__ void clip_kernel(Any s, Any scale, double max_norm) {
  const double norm = sqrt(s.get(0));
  scale.set(0, norm > 0 ? fmin(1.0, max_norm / norm) : norm == 0 ? 1.0 : nan(""));
}

constexpr unsigned square_blocks = 1024;

unsigned one_per(std::int64_t rows) { return static_cast<unsigned>(rows); }

// Bytes of shared memory that a block of a kernel may have besides `own` of its own; allows it to
// ask for them.
template <class Function>
std::int64_t shared_memory(Function* kernel, std::int64_t own) {
  int gpu = 0, most = 0;
  check(cudaGetDevice(&gpu), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, gpu),
        "cudaDeviceGetAttribute");
  most -= static_cast<int>(own);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most),
        "cudaFuncSetAttribute");
  return most;
}

}  // namespace

bool column_sum(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  return typed(kernel, views, {0}) && with_type(kernel.dtype, [&]<class T>(T) {
           sum_columns(stream, data<T>(views[0]), rows, cols, Any(views[1]));
         });
}

bool norm(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  const bool rms = static_cast<Norm>(kernel.dims[2]) == Norm::rms;
  return typed(kernel, views, {0, 3}) && bulk(views, {1, 2}) &&
         with_type(kernel.dtype, [&]<class T>(T) {
           T *x = data<T>(views[0]), *y = data<T>(views[3]);
           const Any gain(views[1]), bias(views[2]);
           with_width<T>(
               cols,
               [&](auto width) {
                 norm_kernel<T, width><<<one_per(rows), row_threads(cols, width), 0, stream>>>(
                     x, gain, bias, y, cols, rms, kernel.scalars[0]);
               },
               x, y, gain, bias);
           launched("norm");
         });
}

bool norm_backward(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  const bool rms = static_cast<Norm>(kernel.dims[2]) == Norm::rms;
  return typed(kernel, views, {0, 1, 3, 6}) && bulk(views, {2}) &&
         with_type(kernel.dtype, [&]<class T>(T) {
           T *dy = data<T>(views[0]), *x = data<T>(views[1]), *skip = data<T>(views[3]),
             *dx = data<T>(views[6]);
           const Any gain(views[2]);
           // First, as dX may be where dY is.
           if (views[5].data != nullptr) sum_columns(stream, dy, rows, cols, Any(views[5]));
           with_width<T>(
               cols,
               [&](auto width) {
                 const unsigned block = row_threads(cols, width);
                 // As many as run at once.
                 const std::int64_t blocks =
                     std::min<std::int64_t>(rows, row_threads_max / block * multiprocessors());
                 const Scratch<float> parts(blocks * cols, stream);
                 norm_backward_kernel<T, width><<<one_per(blocks), block, 0, stream>>>(
                     dy, x, gain, skip, dx, parts.get(), rows, cols, rms, kernel.scalars[0]);
                 launched("norm_backward");
                 add_parts(stream, parts.get(), blocks, cols, Any(views[4]));
               },
               dy, x, skip, dx, gain);
         });
}

bool cross_entropy(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t rows = kernel.dims[0], vocabulary = kernel.dims[1];
  return typed(kernel, views, {0}) && with_type(kernel.dtype, [&]<class T>(T) {
           T* logits = data<T>(views[0]);
           const Scratch<double> by_row(rows, stream);
           with_width<T>(
               vocabulary,
               [&](auto width_constant) {
                 constexpr int width = width_constant;
                 constexpr std::int64_t bytes = sizeof(Pack<T, width>);
                 const auto kernel_function = cross_entropy_kernel<T, width>;
                 const std::int64_t packs = vocabulary / width;
                 const std::int64_t most = shared_memory(kernel_function, 1024);
                 const std::int64_t stored = std::min(packs, most / bytes);
                 const auto block = static_cast<unsigned>(
                     std::clamp<std::int64_t>((packs / 4 + warp - 1) / warp, 2, warp) * warp);
                 kernel_function<<<one_per(rows), block, static_cast<std::size_t>(stored * bytes),
                                   stream>>>(logits, data<std::int32_t>(views[1]), by_row.get(),
                                             vocabulary, stored,
                                             static_cast<float>(kernel.scalars[0]));
                 launched("cross_entropy");
               },
               logits);
           add_sum_kernel<<<1, sum_threads, 0, stream>>>(by_row.get(), rows, kernel.scalars[0],
                                                         Any(views[2]));
           launched("cross_entropy");
         });
}

bool sum_squares(cudaStream_t stream, const Kernel& kernel, Views views) {
  return typed(kernel, views, {0}) && with_type(kernel.dtype, [&]<class T>(T) {
           constexpr int width = pack_width<T>;
           const T* x = data<T>(views[0]);
           const std::int64_t n = kernel.dims[0], head = std::min(n, before_packs(x, width));
           const Scratch<double> parts(square_blocks, stream);
           squares_kernel<T, width>
               <<<square_blocks, threads, 0, stream>>>(x, head, (n - head) / width, n, parts.get());
           add_sum_kernel<<<1, sum_threads, 0, stream>>>(parts.get(), square_blocks,
                                                         kernel.scalars[0], Any(views[1]));
           launched("sum_squares");
         });
}

bool clip_scale(cudaStream_t stream, const Kernel& kernel, Views views) {
  clip_kernel<<<1, 1, 0, stream>>>(Any(views[0]), Any(views[1]), kernel.scalars[0]);
  launched("clip_scale");
  return true;
}

}  // namespace orrery::cuda
