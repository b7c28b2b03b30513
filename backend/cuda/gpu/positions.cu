// Where a token stands, what it is, and initial values: whatever is indexed by position, token or
// global element.
#include "backend/core/philox.hpp"
#include "backend/cuda/gpu/device.cuh"
#include "backend/cuda/gpu/kernels.hpp"

namespace orrery::cuda {

namespace {

// SequencePart::position, on the GPU.
__device__ std::int64_t position(const SequencePart& part, std::int64_t at, std::int64_t length) {
  if (!part.zigzag) return part.index * length + at;
  const std::int64_t half = length / 2;
  return at < half ? part.index * half + at : (2 * part.of - 1 - part.index) * half + at - half;
}

struct Turn {
  std::int64_t tokens, sequence, heads, heads_per_token, size;
  double theta;
  float sign;
  SequencePart part;
};

template <class T>
__global__ void rotary_kernel(T* x, Turn turn) {
  const std::int64_t half = turn.size / 2, n = turn.tokens * turn.heads * half;
  for (std::int64_t k = first_index(); k < n; k += all_threads()) {
    const std::int64_t i = k % half, head = k / half % turn.heads, row = k / half / turn.heads;
    const auto at = static_cast<double>(position(turn.part, row % turn.sequence, turn.sequence));
    const double angle = at * pow(turn.theta, -static_cast<double>(i) / static_cast<double>(half));
    const auto c = static_cast<float>(cos(angle)), s = turn.sign * static_cast<float>(sin(angle));
    T* low = x + (row * turn.heads_per_token + head) * turn.size + i;
    const float a = widen(low[0]), b = widen(low[half]);
    store(low, a * c - b * s);
    store(low + half, b * c + a * s);
  }
}

__device__ std::int64_t table_row(std::int64_t row, std::int64_t first, std::int64_t sequence,
                                  const SequencePart& part) {
  return position(part, (first + row) % sequence, sequence);
}

template <class T>
__global__ void add_positions_kernel(Any table, T* y, std::int64_t n, std::int64_t cols,
                                     std::int64_t sequence, std::int64_t first, SequencePart part) {
  for (std::int64_t i = first_index(); i < n; i += all_threads()) {
    const std::int64_t at = table_row(i / cols, first, sequence, part) * cols + i % cols;
    store(y + i, widen(y[i]) + static_cast<float>(table.get(at)));
  }
}

// A thread adds up all rows of one element of the table, in order.
template <class T>
__global__ void positions_backward_kernel(const T* dy, Any dtable, std::int64_t rows,
                                          std::int64_t cols, std::int64_t sequence,
                                          std::int64_t first, SequencePart part) {
  const std::int64_t n = sequence * cols;  // of the tokens that are here
  for (std::int64_t i = first_index(); i < n; i += all_threads()) {
    const std::int64_t token = i / cols, col = i % cols;
    float sum = 0;
    for (std::int64_t row = (token - first % sequence + sequence) % sequence; row < rows;
         row += sequence)
      sum += widen(dy[row * cols + col]);
    const std::int64_t at = position(part, token, sequence) * cols + col;
    dtable.set(at, dtable.get(at) + sum);
  }
}

template <class T>
__global__ void permute_kernel(T* x, T* y, std::int64_t n_i, std::int64_t n, std::int64_t inner,
                               std::int64_t stride_i, std::int64_t stride_j, bool inverse) {
  for (std::int64_t k = first_index(); k < n; k += all_threads()) {
    const std::int64_t i = k / inner % n_i, j = k / inner / n_i;
    T* there = x + i * stride_i + j * stride_j + k % inner;
    if (inverse)
      *there = y[k];
    else
      y[k] = *there;
  }
}

// The row of the table that a token has, or -1 where another part of the vocabulary has it.
__device__ std::int64_t row_of(std::int32_t token, std::int64_t vocabulary, std::int64_t first,
                               bool part) {
  const std::int64_t at = token - first;
  if (at >= 0 && at < vocabulary) return at;
  if (!part) __trap();
  return -1;
}

template <class T>
__global__ void embedding_kernel(const std::int32_t* tokens, const T* table, T* y, std::int64_t n,
                                 std::int64_t cols, std::int64_t vocabulary, std::int64_t first,
                                 bool part) {
  for (std::int64_t i = first_index(); i < n; i += all_threads()) {
    const std::int64_t at = row_of(tokens[i / cols], vocabulary, first, part);
    if (at >= 0)
      y[i] = table[at * cols + i % cols];
    else
      store(y + i, 0.0F);
  }
}

// A block per row of the table looks through all tokens, and adds up its rows of dY in order: no
// atomics, so the sum has one value.
template <class T>
__global__ void embedding_backward_kernel(const std::int32_t* tokens, const T* dy, Any dtable,
                                          std::int64_t rows, std::int64_t cols,
                                          std::int64_t first) {
  __shared__ bool mine[threads];
  const std::int64_t token = first + blockIdx.x;
  for (std::int64_t col = threadIdx.x; col < (cols + threads - 1) / threads * threads;
       col += threads) {
    float sum = 0;
    bool any = false;
    for (std::int64_t begin = 0; begin < rows; begin += threads) {
      const std::int64_t row = begin + threadIdx.x;
      const bool here = row < rows && tokens[row] == token;
      mine[threadIdx.x] = here;
      if (__syncthreads_or(here) == 0) continue;
      any = true;
      const std::int64_t count = rows - begin < threads ? rows - begin : threads;
      if (col < cols)
        for (int i = 0; i < count; ++i)
          if (mine[i]) sum += widen(dy[(begin + i) * cols + col]);
      __syncthreads();
    }
    if (!any) return;  // the same for all threads
    if (col < cols) {
      const std::int64_t at = blockIdx.x * cols + col;
      dtable.set(at, dtable.get(at) + sum);
    }
  }
}

// Philox::normal, on the GPU.
__device__ double normal(const Philox& numbers, std::uint64_t index) {
  const PhiloxBlock b = numbers.block(index);
  const std::uint64_t first = ((std::uint64_t{b[1]} << 32) | b[0]) >> 11;
  const std::uint64_t second = ((std::uint64_t{b[3]} << 32) | b[2]) >> 11;
  const double radius = static_cast<double>(first + 1) * 0x1p-53;
  return sqrt(-2 * log(radius)) * cospi(2 * (static_cast<double>(second) * 0x1p-53));
}

__global__ void initialise_kernel(Any y, Philox numbers, std::uint64_t base, double deviation,
                                  std::int64_t n, std::int64_t cols, std::int64_t stride,
                                  std::int64_t first, std::int64_t global_stride) {
  for (std::int64_t k = first_index(); k < n; k += all_threads()) {
    const std::int64_t row = k / cols, i = k % cols;
    const auto index = base + static_cast<std::uint64_t>(first + row * global_stride + i);
    y.set(row * stride + i, deviation * normal(numbers, index));
  }
}

}  // namespace

bool rotary(cudaStream_t stream, const Kernel& kernel, Views views) {
  const auto [batch, sequence, heads, heads_per_token, size, inverse] = kernel.dims;
  const Turn turn{batch * sequence,
                  sequence,
                  heads,
                  heads_per_token,
                  size,
                  kernel.scalars[0],
                  inverse != 0 ? -1.0F : 1.0F,
                  kernel.part};
  return typed(kernel, views, {0}) && with_type(kernel.dtype, [&](auto type) {
           using T = decltype(type);
           rotary_kernel<T>
               <<<blocks(turn.tokens * turn.heads * (turn.size / 2)), threads, 0, stream>>>(
                   data<T>(views[0]), turn);
           launched("rotary");
         });
}

bool add_positions(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t cols = kernel.dims[1], n = kernel.dims[0] * cols;
  return typed(kernel, views, {1}) && with_type(kernel.dtype, [&](auto type) {
           using T = decltype(type);
           add_positions_kernel<T>
               <<<blocks(n), threads, 0, stream>>>(Any(views[0]), data<T>(views[1]), n, cols,
                                                   kernel.dims[2], kernel.dims[3], kernel.part);
           launched("add_positions");
         });
}

bool positions_backward(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1], sequence = kernel.dims[2];
  return typed(kernel, views, {0}) && with_type(kernel.dtype, [&](auto type) {
           using T = decltype(type);
           positions_backward_kernel<T><<<blocks(sequence * cols), threads, 0, stream>>>(
               data<T>(views[0]), Any(views[1]), rows, cols, sequence, kernel.dims[3], kernel.part);
           launched("positions_backward");
         });
}

bool permute(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t n_i = kernel.dims[0], inner = kernel.dims[2], n = n_i * kernel.dims[1] * inner;
  return typed(kernel, views, {0, 1}) && with_type(kernel.dtype, [&](auto type) {
           using T = decltype(type);
           permute_kernel<T><<<blocks(n), threads, 0, stream>>>(
               data<T>(views[0]), data<T>(views[1]), n_i, n, inner, kernel.dims[3], kernel.dims[4],
               kernel.dims[5] != 0);
           launched("permute");
         });
}

bool embedding(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t cols = kernel.dims[1], n = kernel.dims[0] * cols;
  return typed(kernel, views, {1, 2}) && with_type(kernel.dtype, [&](auto type) {
           using T = decltype(type);
           embedding_kernel<T><<<blocks(n), threads, 0, stream>>>(
               data<std::int32_t>(views[0]), data<T>(views[1]), data<T>(views[2]), n, cols,
               kernel.dims[2], kernel.dims[3], kernel.dims[4] != 0);
           launched("embedding");
         });
}

bool embedding_backward(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  return typed(kernel, views, {1}) && with_type(kernel.dtype, [&](auto type) {
           using T = decltype(type);
           embedding_backward_kernel<T>
               <<<static_cast<unsigned>(kernel.dims[2]), threads, 0, stream>>>(
                   data<std::int32_t>(views[0]), data<T>(views[1]), Any(views[2]), rows, cols,
                   kernel.dims[3]);
           launched("embedding_backward");
         });
}

bool initialise(cudaStream_t stream, const Kernel& kernel, Views views) {
  const auto [rows, cols, number, stride, first, global_stride] = kernel.dims;
  const std::int64_t n = rows * cols;
  initialise_kernel<<<blocks(n), threads, 0, stream>>>(
      Any(views[0]), Philox(kernel.seed, Purpose::initial_values),
      static_cast<std::uint64_t>(number) << 40, kernel.scalars[0], n, cols, stride, first,
      global_stride);
  launched("initialise");
  return true;
}

}  // namespace orrery::cuda
