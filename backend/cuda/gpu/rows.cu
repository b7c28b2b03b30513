// Kernels that sum over the columns of a row, one block per row, or over the rows of a column.
#include <cfloat>

#include "backend/cuda/gpu/device.cuh"
#include "backend/cuda/gpu/kernels.hpp"

namespace orrery::cuda {

namespace {

// A block sums `tile` columns: each of its warps every eighth row, then the warps' sums in order.
constexpr int tile = 32, row_lanes = threads / tile;

template <class Term>
__device__ void sum_column(std::int64_t rows, std::int64_t cols, Any to, const Term& term) {
  __shared__ double parts[row_lanes][tile];
  const int lane = threadIdx.x % tile, row_lane = threadIdx.x / tile;
  const std::int64_t col = static_cast<std::int64_t>(blockIdx.x) * tile + lane;
  double sum = 0;
  if (col < cols)
    for (std::int64_t row = row_lane; row < rows; row += row_lanes) sum += term(row, col);
  parts[row_lane][lane] = sum;
  __syncthreads();
  if (row_lane != 0 || col >= cols) return;
  for (int i = 1; i < row_lanes; ++i) sum += parts[i][lane];
  to.set(col, to.get(col) + sum);
}

unsigned column_blocks(std::int64_t cols) {
  return static_cast<unsigned>((cols + tile - 1) / tile);
}

template <class T>
__global__ void column_sum_kernel(const T* x, Any y, std::int64_t rows, std::int64_t cols) {
  sum_column(rows, cols, y,
             [=](std::int64_t row, std::int64_t col) { return widen(x[row * cols + col]); });
}

// A row is normalised to (x - mean) * scale.
template <class T>
__device__ float2 statistics(const T* x, std::int64_t cols, bool rms, double epsilon) {
  float mean = 0;
  if (!rms) {
    double sum = 0;
    for (std::int64_t i = threadIdx.x; i < cols; i += threads) sum += widen(x[i]);
    mean = static_cast<float>(block_sum(sum) / static_cast<double>(cols));
  }
  double squares = 0;
  for (std::int64_t i = threadIdx.x; i < cols; i += threads) {
    const float distance = widen(x[i]) - mean;
    squares += static_cast<double>(distance) * distance;
  }
  return {mean,
          static_cast<float>(rsqrt(block_sum(squares) / static_cast<double>(cols) + epsilon))};
}

template <class T>
__global__ void norm_kernel(const T* x, Any gain, Any bias, T* y, std::int64_t cols, bool rms,
                            double epsilon) {
  x += blockIdx.x * cols;
  y += blockIdx.x * cols;
  const float2 s = statistics(x, cols, rms, epsilon);
  for (std::int64_t i = threadIdx.x; i < cols; i += threads)
    store(y + i, (widen(x[i]) - s.x) * s.y * static_cast<float>(gain.get(i)) + bias.or_zero(i));
}

// As backend/cpu/kernels_norm.cpp; `found` keeps the statistics for the sums over rows.
template <class T>
__global__ void norm_backward_kernel(const T* dy, const T* x, Any gain, const T* skip, T* dx,
                                     float2* found, std::int64_t cols, bool rms, double epsilon) {
  const std::int64_t begin = blockIdx.x * cols;
  dy += begin, x += begin, dx += begin;
  const float2 s = statistics(x, cols, rms, epsilon);
  double along = 0, sum = 0;
  for (std::int64_t i = threadIdx.x; i < cols; i += threads) {
    const float d = widen(dy[i]) * static_cast<float>(gain.get(i));
    along += d * ((widen(x[i]) - s.x) * s.y);
    sum += d;
  }
  const auto projection = static_cast<float>(block_sum(along) / static_cast<double>(cols));
  const auto mean = rms ? 0.0F : static_cast<float>(block_sum(sum) / static_cast<double>(cols));
  for (std::int64_t i = threadIdx.x; i < cols; i += threads) {
    const float normed = (widen(x[i]) - s.x) * s.y;
    const float own =
        s.y * (widen(dy[i]) * static_cast<float>(gain.get(i)) - mean - normed * projection);
    store(dx + i, skip == nullptr ? own : widen(skip[begin + i]) + own);
  }
  if (threadIdx.x == 0) found[blockIdx.x] = s;
}

template <class T>
__global__ void norm_gain_kernel(const T* dy, const T* x, const float2* found, Any dgain,
                                 std::int64_t rows, std::int64_t cols) {
  sum_column(rows, cols, dgain, [=](std::int64_t row, std::int64_t col) {
    const std::int64_t at = row * cols + col;
    return widen(dy[at]) * ((widen(x[at]) - found[row].x) * found[row].y);
  });
}

// `by_row` gets -log softmax[target].
template <class T>
__global__ void cross_entropy_kernel(T* logits, const std::int32_t* targets, double* by_row,
                                     std::int64_t vocabulary, float scale) {
  logits += blockIdx.x * vocabulary;
  const std::int64_t target = targets[blockIdx.x];
  if (target < 0 || target >= vocabulary) __trap();
  float largest = -FLT_MAX;
  for (std::int64_t i = threadIdx.x; i < vocabulary; i += threads)
    largest = fmaxf(largest, widen(logits[i]));
  largest = block_max(largest);
  const float chosen = widen(logits[target]) - largest;
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < vocabulary; i += threads)
    sum += expf(widen(logits[i]) - largest);
  sum = block_sum(sum);  // and everyone has read the target's logit
  const auto inverse = static_cast<float>(1.0 / sum);
  for (std::int64_t i = threadIdx.x; i < vocabulary; i += threads) {
    const float p = expf(widen(logits[i]) - largest) * inverse;
    store(logits + i, scale * p - (i == target ? scale : 0.0F));
  }
  if (threadIdx.x == 0) by_row[blockIdx.x] = log(sum) - chosen;
}

// to += weight * the sum of n numbers; one block.
__global__ void add_sum_kernel(const double* x, std::int64_t n, double weight, Any to) {
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += threads) sum += x[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) to.set(0, to.get(0) + weight * sum);
}

template <class T>
__global__ void squares_kernel(const T* x, std::int64_t n, double* parts) {
  double sum = 0;
  for (std::int64_t i = first_index(); i < n; i += all_threads()) {
    const double value = widen(x[i]);
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

}  // namespace

bool column_sum(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  return typed(kernel, views, {0}) && with_type(kernel.dtype, [&](auto type) {
           using T = decltype(type);
           column_sum_kernel<T><<<column_blocks(cols), threads, 0, stream>>>(
               data<T>(views[0]), Any(views[1]), rows, cols);
           launched("column_sum");
         });
}

bool norm(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  const bool rms = static_cast<Norm>(kernel.dims[2]) == Norm::rms;
  return typed(kernel, views, {0, 3}) && with_type(kernel.dtype, [&](auto type) {
           using T = decltype(type);
           norm_kernel<T><<<one_per(rows), threads, 0, stream>>>(data<T>(views[0]), Any(views[1]),
                                                                 Any(views[2]), data<T>(views[3]),
                                                                 cols, rms, kernel.scalars[0]);
           launched("norm");
         });
}

bool norm_backward(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  const bool rms = static_cast<Norm>(kernel.dims[2]) == Norm::rms;
  return typed(kernel, views, {0, 1, 3, 6}) && with_type(kernel.dtype, [&](auto type) {
           using T = decltype(type);
           const T *dy = data<T>(views[0]), *x = data<T>(views[1]);
           const Scratch<float2> found(rows, stream);
           // dX may be where dY or X are, so the sums over rows come first in a row's own pass
           // only.
           const Scratch<T> result(rows * cols, stream);
           norm_backward_kernel<T><<<one_per(rows), threads, 0, stream>>>(
               dy, x, Any(views[2]), data<T>(views[3]), result.get(), found.get(), cols, rms,
               kernel.scalars[0]);
           norm_gain_kernel<T><<<column_blocks(cols), threads, 0, stream>>>(
               dy, x, found.get(), Any(views[4]), rows, cols);
           if (views[5].data != nullptr)
             column_sum_kernel<T>
                 <<<column_blocks(cols), threads, 0, stream>>>(dy, Any(views[5]), rows, cols);
           launched("norm_backward");
           check(cudaMemcpyAsync(views[6].data, result.get(),
                                 static_cast<std::size_t>(rows * cols) * sizeof(T),
                                 cudaMemcpyDeviceToDevice, stream),
                 "cudaMemcpyAsync");
         });
}

bool cross_entropy(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t rows = kernel.dims[0], vocabulary = kernel.dims[1];
  return typed(kernel, views, {0}) && with_type(kernel.dtype, [&](auto type) {
           using T = decltype(type);
           const Scratch<double> by_row(rows, stream);
           cross_entropy_kernel<T><<<one_per(rows), threads, 0, stream>>>(
               data<T>(views[0]), data<std::int32_t>(views[1]), by_row.get(), vocabulary,
               static_cast<float>(kernel.scalars[0]));
           add_sum_kernel<<<1, threads, 0, stream>>>(by_row.get(), rows, kernel.scalars[0],
                                                     Any(views[2]));
           launched("cross_entropy");
         });
}

bool sum_squares(cudaStream_t stream, const Kernel& kernel, Views views) {
  return typed(kernel, views, {0}) && with_type(kernel.dtype, [&](auto type) {
           using T = decltype(type);
           const Scratch<double> parts(square_blocks, stream);
           squares_kernel<T><<<square_blocks, threads, 0, stream>>>(data<T>(views[0]),
                                                                    kernel.dims[0], parts.get());
           add_sum_kernel<<<1, threads, 0, stream>>>(parts.get(), square_blocks, kernel.scalars[0],
                                                     Any(views[1]));
           launched("sum_squares");
         });
}

bool clip_scale(cudaStream_t stream, const Kernel& kernel, Views views) {
  clip_kernel<<<1, 1, 0, stream>>>(Any(views[0]), Any(views[1]), kernel.scalars[0]);
  launched("clip_scale");
  return true;
}

}  // namespace orrery::cuda
