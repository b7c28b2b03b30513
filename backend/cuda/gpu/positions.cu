// Where a token stands, what it is, and initial values: whatever is indexed by position, token or
// global element.
#include <cmath>

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
  double log_theta;  // to base 2
  float sign;
  SequencePart part;
};

// A block turns the heads of every gridDim.x-th token, by angles that it finds once for all heads:
// in double, as whole turns must be taken off exactly, then sine and cosine of what is left in
// fp32.
template <class T, int width>
__global__ void __launch_bounds__(threads) rotary_kernel(T* x, Turn turn) {
  extern __shared__ double turns_per_token[];
  const std::int64_t half = turn.size / 2, packs = half / width;
  auto* cosine = reinterpret_cast<float*>(turns_per_token + half);
  float* sine = cosine + half;
  for (std::int64_t i = threadIdx.x; i < half; i += blockDim.x)
    turns_per_token[i] =
        exp2(-turn.log_theta * static_cast<double>(i) / static_cast<double>(half)) /
        6.28318530717958648;
  for (std::int64_t row = blockIdx.x; row < turn.tokens; row += gridDim.x) {
    const auto at = static_cast<double>(position(turn.part, row % turn.sequence, turn.sequence));
    for (std::int64_t i = threadIdx.x; i < half; i += blockDim.x) {
      const double turns = at * turns_per_token[i];
      float s = 0, c = 0;
      sincospif(static_cast<float>(2 * (turns - rint(turns))), &s, &c);
      sine[i] = turn.sign * s;
      cosine[i] = c;
    }
    __syncthreads();
    T* token = x + row * turn.heads_per_token * turn.size;
    for (std::int64_t k = threadIdx.x; k < turn.heads * packs; k += blockDim.x) {
      const std::int64_t head = k / packs, i = (k - head * packs) * width;
      T* low = token + head * turn.size + i;
      Lanes<width> a = load<width>(low), b = load<width>(low + half);
      const Lanes<width> c = load<width>(cosine + i), s = load<width>(sine + i);
#pragma unroll
      for (int j = 0; j < width; ++j) {
        const float first = a.at[j], second = b.at[j];
        a.at[j] = first * c.at[j] - second * s.at[j];
        b.at[j] = second * c.at[j] + first * s.at[j];
      }
      store(low, a);
      store(low + half, b);
    }
    __syncthreads();
  }
}

__device__ std::int64_t table_row(std::int64_t row, std::int64_t first, std::int64_t sequence,
                                  const SequencePart& part) {
  return position(part, (first + row) % sequence, sequence);
}

template <class T>
struct AddPositions {
  Any table;
  T* y;
  std::int64_t cols, sequence, first;
  SequencePart part;
  template <int width>
  __device__ void run(std::int64_t i) const {
    const std::int64_t row = i / cols, col = i - row * cols;
    const Lanes<width> here =
        table.lanes<width>(table_row(row, first, sequence, part) * cols + col);
    Lanes<width> sum = load<width>(y + i);
#pragma unroll
    for (int j = 0; j < width; ++j) sum.at[j] += here.at[j];
    store(y + i, sum);
  }
};

// A thread adds up all rows of some elements of the table, in order. `i` counts those of the tokens
// that are here.
template <class T>
struct PositionsBackward {
  const T* dy;
  Any dtable;
  std::int64_t rows, cols, sequence, first;
  SequencePart part;
  template <int width>
  __device__ void run(std::int64_t i) const {
    const std::int64_t token = i / cols, col = i - token * cols;
    Lanes<width> sum{};
    for (std::int64_t row = (token - first % sequence + sequence) % sequence; row < rows;
         row += sequence) {
      const Lanes<width> d = load<width>(dy + row * cols + col);
#pragma unroll
      for (int j = 0; j < width; ++j) sum.at[j] += d.at[j];
    }
    dtable.add<width>(position(part, token, sequence) * cols + col, sum);
  }
};

// Calls action(Unit{}, how many elements it is) with the type to copy rows by, `cols` elements of
// `size` bytes that begin at multiples of `strides` after these addresses: 16 bytes or an element.
template <class Action>
void with_unit(std::int64_t size, std::initializer_list<std::int64_t> strides,
               std::initializer_list<const void*> addresses, const Action& action) {
  std::int64_t bytes = 0;
  for (const std::int64_t stride : strides) bytes |= stride * size;
  for (const void* address : addresses)
    bytes |= static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(address));
  if (bytes % 16 == 0)
    action(uint4{}, 16 / size);
  else if (size == 4)
    action(std::uint32_t{}, std::int64_t{1});
  else
    action(std::uint16_t{}, std::int64_t{1});
}

// In units.
template <class Unit>
struct Permute {
  Unit *x, *y;
  std::int64_t n_i, inner, stride_i, stride_j;
  bool inverse;
  template <int>
  __device__ void run(std::int64_t k) const {
    const std::int64_t row = k / inner, j = row / n_i, i = row - j * n_i;
    Unit* there = x + i * stride_i + j * stride_j + (k - row * inner);
    if (inverse)
      *there = y[k];
    else
      y[k] = *there;
  }
};

// The row of the table that a token has, or -1 where another part of the vocabulary has it.
__device__ std::int64_t row_of(std::int32_t token, std::int64_t vocabulary, std::int64_t first,
                               bool part) {
  const std::int64_t at = token - first;
  if (at >= 0 && at < vocabulary) return at;
  if (!part) __trap();
  return -1;
}

// In units.
template <class Unit>
struct Embedding {
  const std::int32_t* tokens;
  const Unit* table;
  Unit* y;
  std::int64_t cols, vocabulary, first;
  bool part;
  template <int>
  __device__ void run(std::int64_t i) const {
    const std::int64_t row = i / cols, at = row_of(tokens[row], vocabulary, first, part);
    y[i] = at >= 0 ? table[at * cols + (i - row * cols)] : Unit{};
  }
};

// place[row] += how many of a block's part of the rows come before it: those of smaller tokens, and
// earlier ones of the same. Whole numbers, so the order of the additions does not matter. Of the
// square of the rows, a comparison each: for some ten thousand rows that takes less than what sorts
// in several passes.
__global__ void __launch_bounds__(threads)
    place_kernel(const std::int32_t* tokens, std::int32_t* place, std::int64_t rows,
                 std::int64_t deep) {
  __shared__ std::int32_t others[threads];
  const std::int64_t row = first_index(), begin = blockIdx.y * deep;
  const std::int64_t end = begin + deep < rows ? begin + deep : rows;
  const std::int32_t token = row < rows ? tokens[row] : 0;
  int before = 0;
  for (std::int64_t at = begin; at < end; at += threads) {
    __syncthreads();
    if (at + threadIdx.x < end) others[threadIdx.x] = tokens[at + threadIdx.x];
    __syncthreads();
    const int count = static_cast<int>(end - at < threads ? end - at : threads);
    // Which of these are earlier rows.
    const auto earlier = static_cast<int>(max(min(row - at, std::int64_t{count}), std::int64_t{0}));
#pragma unroll 8
    for (int i = 0; i < earlier; ++i) before += others[i] <= token;
#pragma unroll 8
    for (int i = earlier; i < count; ++i) before += others[i] < token;
  }
  if (row < rows) atomicAdd(place + row, before);
}

// Row order[k] and its token sorted[k] are number k by token.
__global__ void order_kernel(const std::int32_t* tokens, const std::int32_t* place,
                             std::int32_t* order, std::int32_t* sorted, std::int64_t rows) {
  const std::int64_t row = first_index();
  if (row >= rows) return;
  order[place[row]] = static_cast<std::int32_t>(row);
  sorted[place[row]] = tokens[row];
}

// The first place behind `begin` that has another token than it.
__device__ std::int64_t end_of(const std::int32_t* sorted, std::int64_t begin, std::int64_t rows) {
  const std::int32_t token = sorted[begin];
  std::int64_t inside = begin, end = begin + 1;
  if (end < rows && sorted[end] == token) end = rows;  // else most often
  while (end - inside > 1) {
    const std::int64_t middle = (inside + end) / 2;
    (sorted[middle] == token ? inside : end) = middle;
  }
  return end;
}

// Whether row number k by token and the one before it have one token.
__device__ bool continues(const std::int32_t* sorted, std::int64_t k, std::int64_t rows) {
  return k > 0 && k < rows && sorted[k] == sorted[k - 1];
}

// A block takes `chunk` rows in the order of their tokens, and adds up those of each token. A
// token's sum that is whole goes to the table; one that began in the chunk before, or goes on in
// the next, is a part: parts[2 * chunk] and parts[2 * chunk + 1]. However often a token occurs, its
// rows are spread over blocks.
constexpr int chunk = 32, rows_at_once = 8;

template <class T, int width>
__global__ void __launch_bounds__(threads)
    embedding_chunk_kernel(const std::int32_t* order, const std::int32_t* sorted, const T* dy,
                           Any dtable, float* parts, std::int64_t rows, std::int64_t cols,
                           std::int64_t vocabulary, std::int64_t first) {
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * chunk;
  const std::int64_t end = begin + chunk < rows ? begin + chunk : rows;
  const std::int64_t col = (blockIdx.y * blockDim.x + threadIdx.x) * std::int64_t{width};
  if (col >= cols) return;
  Lanes<width> sum{};
  bool part_before = continues(sorted, begin, rows);
  for (std::int64_t some = begin; some < end; some += rows_at_once) {
    Pack<T, width> packs[rows_at_once];
#pragma unroll
    for (int u = 0; u < rows_at_once; ++u)
      if (some + u < end) packs[u] = take<width>(dy + order[some + u] * cols + col);
#pragma unroll
    for (int u = 0; u < rows_at_once; ++u) {
      const std::int64_t at = some + u;
      if (at >= end) break;
      const Lanes<width> d = widen(packs[u]);
#pragma unroll
      for (int j = 0; j < width; ++j) sum.at[j] += d.at[j];
      const bool goes_on = continues(sorted, at + 1, rows);
      if (goes_on && at + 1 < end) continue;
      const std::int64_t to = sorted[at] - first;
      if (part_before || goes_on)
        store(parts + (2 * blockIdx.x + (part_before ? 0 : 1)) * cols + col, sum);
      else if (to >= 0 && to < vocabulary)
        dtable.add<width>(to * cols + col, sum);
      sum = {};
      part_before = false;
    }
  }
}

// A block at the chunk in which a token begins that goes on behind it adds the token's parts up.
template <int width>
__global__ void __launch_bounds__(threads)
    embedding_join_kernel(const std::int32_t* sorted, const float* parts, Any dtable,
                          std::int64_t rows, std::int64_t cols, std::int64_t vocabulary,
                          std::int64_t first) {
  const std::int64_t here = blockIdx.x, begin = here * chunk, next = begin + chunk;
  if (!continues(sorted, next, rows)) return;
  const std::int32_t token = sorted[next];
  if (sorted[begin] == token && continues(sorted, begin, rows)) return;  // it began before
  const std::int64_t to = token - first;
  const std::int64_t col = (blockIdx.y * blockDim.x + threadIdx.x) * std::int64_t{width};
  if (to < 0 || to >= vocabulary || col >= cols) return;
  const std::int64_t last = (end_of(sorted, next, rows) - 1) / chunk;
  Lanes<width> sum = load<width>(parts + (2 * here + 1) * cols + col);
#pragma unroll 8
  for (std::int64_t k = here + 1; k <= last; ++k) {
    const Lanes<width> part = load<width>(parts + 2 * k * cols + col);
#pragma unroll
    for (int j = 0; j < width; ++j) sum.at[j] += part.at[j];
  }
  dtable.add<width>(to * cols + col, sum);
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
                  std::log2(kernel.scalars[0]),
                  inverse != 0 ? -1.0F : 1.0F,
                  kernel.part};
  return typed(kernel, views, {0}) && with_type(kernel.dtype, [&]<class T>(T) {
           T* x = data<T>(views[0]);
           with_width<T>(
               turn.size / 2,
               [&](auto width) {
                 const auto angles = static_cast<std::size_t>(turn.size / 2) * 16;
                 const auto grid = std::min<std::int64_t>(turn.tokens, 8 * multiprocessors());
                 rotary_kernel<T, width>
                     <<<static_cast<unsigned>(grid), threads, angles, stream>>>(x, turn);
               },
               x);
           launched("rotary");
         });
}

bool add_positions(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t cols = kernel.dims[1], n = kernel.dims[0] * cols;
  return typed(kernel, views, {1}) && bulk(views, {0}) && with_type(kernel.dtype, [&]<class T>(T) {
           const AddPositions<T> work{Any(views[0]),  data<T>(views[1]), cols,
                                      kernel.dims[2], kernel.dims[3],    kernel.part};
           each_in_rows<pack_width<T>>(stream, "add_positions", n, cols, work, work.table, work.y);
         });
}

bool positions_backward(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t cols = kernel.dims[1], n = kernel.dims[2] * cols;
  return typed(kernel, views, {0}) && bulk(views, {1}) && with_type(kernel.dtype, [&]<class T>(T) {
           const PositionsBackward<T> work{data<T>(views[0]), Any(views[1]),  kernel.dims[0], cols,
                                           kernel.dims[2],    kernel.dims[3], kernel.part};
           each_in_rows<pack_width<T>>(stream, "positions_backward", n, cols, work, work.dy,
                                       work.dtable);
         });
}

bool permute(cudaStream_t stream, const Kernel& kernel, Views views) {
  const auto [n_i, n_j, inner, stride_i, stride_j, inverse] = kernel.dims;
  const std::int64_t size = size_of(kernel.dtype);
  if (!typed(kernel, views, {0, 1}) || (size != 2 && size != 4)) return false;
  with_unit(size, {inner, stride_i, stride_j}, {views[0].data, views[1].data},
            [&]<class Unit>(Unit, std::int64_t in_unit) {
              const Permute<Unit> work{data<Unit>(views[0]),     data<Unit>(views[1]),
                                       kernel.dims[0],           kernel.dims[2] / in_unit,
                                       kernel.dims[3] / in_unit, kernel.dims[4] / in_unit,
                                       kernel.dims[5] != 0};
              const std::int64_t n = work.n_i * kernel.dims[1] * work.inner;
              start_each<1>(stream, "permute", work, 0, n, n);
            });
  return true;
}

bool embedding(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t cols = kernel.dims[1], size = size_of(kernel.dtype);
  if (!typed(kernel, views, {1, 2}) || (size != 2 && size != 4)) return false;
  with_unit(size, {cols}, {views[1].data, views[2].data},
            [&]<class Unit>(Unit, std::int64_t in_unit) {
              const Embedding<Unit> work{data<std::int32_t>(views[0]),
                                         data<Unit>(views[1]),
                                         data<Unit>(views[2]),
                                         cols / in_unit,
                                         kernel.dims[2],
                                         kernel.dims[3],
                                         kernel.dims[4] != 0};
              const std::int64_t n = kernel.dims[0] * work.cols;
              start_each<1>(stream, "embedding", work, 0, n, n);
            });
  return true;
}

bool embedding_backward(cudaStream_t stream, const Kernel& kernel, Views views) {
  const std::int64_t rows = kernel.dims[0], cols = kernel.dims[1];
  if (!typed(kernel, views, {1}) || !bulk(views, {2})) return false;
  const auto* tokens = data<std::int32_t>(views[0]);
  const Scratch<std::int32_t> places(3 * rows, stream);
  std::int32_t *place = places.get(), *order = place + rows, *sorted = order + rows;
  check(cudaMemsetAsync(place, 0, static_cast<std::size_t>(rows) * sizeof *place, stream),
        "cudaMemsetAsync");
  const auto groups = static_cast<unsigned>((rows + threads - 1) / threads);
  // So many parts of the rows that all multiprocessors have some to compare with.
  const std::int64_t parts = std::max(4 * multiprocessors() / static_cast<int>(groups), 1);
  const std::int64_t deep = (rows + parts - 1) / parts;
  const dim3 grid(groups, static_cast<unsigned>((rows + deep - 1) / deep));
  place_kernel<<<grid, threads, 0, stream>>>(tokens, place, rows, deep);
  order_kernel<<<groups, threads, 0, stream>>>(tokens, place, order, sorted, rows);
  launched("embedding_backward");
  return with_type(kernel.dtype, [&]<class T>(T) {
    const T* dy = data<T>(views[1]);
    const Any dtable(views[2]);
    with_width<T>(
        cols,
        [&](auto width) {
          const std::int64_t chunks = (rows + chunk - 1) / chunk, in_block = threads * width;
          const Scratch<float> parts(2 * chunks * cols, stream);
          const dim3 blocks(static_cast<unsigned>(chunks),
                            static_cast<unsigned>((cols + in_block - 1) / in_block));
          embedding_chunk_kernel<T, width><<<blocks, threads, 0, stream>>>(
              order, sorted, dy, dtable, parts.get(), rows, cols, kernel.dims[2], kernel.dims[3]);
          embedding_join_kernel<width><<<blocks, threads, 0, stream>>>(
              sorted, parts.get(), dtable, rows, cols, kernel.dims[2], kernel.dims[3]);
          launched("embedding_backward");
        },
        dy, dtable);
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
