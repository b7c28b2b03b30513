// Softmax attention that keeps no matrix of probabilities (Dao 2023, arXiv 2307.08691): forward
// with a running maximum, backward from the logarithms of the denominators.
//
// A warp has one row: a query where gradients of queries are wanted, a key where those of keys and
// values are. Rows of the other side come through shared memory, 32 at a time, one per lane for the
// products along a head. Sums have one order and there are no atomics, so bits repeat. Products are
// fp32, not on tensor cores: what cuDNN does instead where it can (dnn.hpp) is an order of
// magnitude faster.
#include "backend/cuda/gpu/device.cuh"
#include "backend/cuda/gpu/kernels.hpp"

namespace orrery::cuda {

namespace {

constexpr int warps = 8, lanes = warp, size_max = 256, per_lane_max = size_max / lanes;

// A [batch, sequence, per_token, size] operand, or the part of one from head `first` on.
template <class T>
struct Heads {
  T* data = nullptr;
  std::int64_t sequence = 0, per_token = 0, first = 0;
  int size = 0;
  __device__ T* row(std::int64_t batch, std::int64_t head, std::int64_t at) const {
    return data + ((batch * sequence + at) * per_token + first + head) * size;
  }
};

struct Shape {
  std::int64_t batch, heads, kv_heads, sequence, keys;
  int size;
  AttentionPart which;
  SequencePart part;
  float scale;

  explicit Shape(const Kernel& kernel)
      : batch(kernel.dims[0]),
        heads(kernel.dims[1]),
        kv_heads(kernel.dims[2]),
        sequence(kernel.dims[3]),
        keys(0),
        size(static_cast<int>(kernel.dims[4])),
        which(static_cast<AttentionPart>(kernel.dims[5])),
        part(kernel.part),
        scale(static_cast<float>(1.0 / std::sqrt(static_cast<double>(kernel.dims[4])))) {
    keys = which == AttentionPart::prefix ? sequence * part.of : sequence;
  }
  __host__ __device__ std::int64_t group() const { return heads / kv_heads; }
  // The keys that the query in a row sees are the first ones.
  __device__ std::int64_t seen_by(std::int64_t row) const {
    switch (which) {
      case AttentionPart::causal:
        return row + 1;
      case AttentionPart::early_keys:
        return keys / 2;
      case AttentionPart::prefix: {
        if (!part.zigzag) return part.index * sequence + row + 1;
        const std::int64_t half = sequence / 2;
        return (row < half ? part.index * half + row
                           : (2 * part.of - 1 - part.index) * half + row - half) +
               1;
      }
      default:
        return keys;
    }
  }
  __host__ __device__ std::int64_t first_query() const {
    return which == AttentionPart::late_queries ? sequence / 2 : 0;
  }
};

// In 16 bits a statistic is the sum of two elements: its rounding and what that left.
__device__ void store_statistic(float* to, std::int64_t i, float value) { to[i] = value; }
__device__ float load_statistic(const float* from, std::int64_t i) { return from[i]; }
template <class T>
__device__ void store_statistic(T* to, std::int64_t i, float value) {
  store(to + 2 * i, value);
  store(to + 2 * i + 1, value - widen(to[2 * i]));
}
template <class T>
__device__ float load_statistic(const T* from, std::int64_t i) {
  return widen(from[2 * i]) + widen(from[2 * i + 1]);
}

// 32 rows of two operands, in fp32; rows are one element apart from a multiple of the banks.
struct Tile {
  float *a, *b;
  int stride;
  __device__ Tile(float* memory, int size) : a(memory), stride(size + 1) {
    b = memory + lanes * stride;
  }
  template <class T>
  __device__ void load(const Heads<const T>& from_a, const Heads<const T>& from_b,
                       std::int64_t batch, std::int64_t head, std::int64_t begin,
                       std::int64_t end) const {
    __syncthreads();
    const int size = stride - 1;
    for (int i = static_cast<int>(threadIdx.x); i < lanes * size; i += threads) {
      const std::int64_t at = begin + i / size;
      const bool there = at < end;
      const int to = i / size * stride + i % size;
      a[to] = there ? widen(from_a.row(batch, head, at)[i % size]) : 0.0F;
      b[to] = there ? widen(from_b.row(batch, head, at)[i % size]) : 0.0F;
    }
    __syncthreads();
  }
  // Of this lane's row.
  __device__ static float dot(const float* row, const float* other, int size) {
    float sum = 0;
    for (int i = 0; i < size; ++i) sum += row[i] * other[i];
    return sum;
  }
  // sum[e] += the sum over rows of weight (of the row's lane) * row[lane + 32 e].
  __device__ void add(const float* rows, float weight, int size, float* sum) const {
    const int lane = static_cast<int>(threadIdx.x) % lanes;
    for (int j = 0; j < lanes; ++j) {
      const float w = __shfl_sync(~0U, weight, j);
      for (int e = 0; e < per_lane_max; ++e)
        if (lane + e * lanes < size) sum[e] += w * rows[j * stride + lane + e * lanes];
    }
  }
};

std::size_t shared_bytes(int size) {
  return static_cast<std::size_t>(2 * lanes * (size + 1) + 2 * warps * size) * sizeof(float);
}

// The warp's own two rows, behind the tile.
struct Own {
  float *a, *b;
  template <class T>
  __device__ Own(float* memory, const T* from_a, const T* from_b, int size) {
    const int lane = static_cast<int>(threadIdx.x) % lanes;
    a = memory + 2 * lanes * (size + 1) + static_cast<int>(threadIdx.x) / lanes * 2 * size;
    b = a + size;
    for (int i = lane; i < size; i += lanes) {
      a[i] = from_a == nullptr ? 0.0F : widen(from_a[i]);
      b[i] = from_b == nullptr ? 0.0F : widen(from_b[i]);
    }
    __syncwarp();
  }
};

__device__ std::int64_t own_row() {
  return static_cast<std::int64_t>(blockIdx.x) * warps + threadIdx.x / lanes;
}

// Keys that some query of the block sees.
__device__ std::int64_t seen_by_block(const Shape& s) {
  std::int64_t most = 0;
  for (std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * warps;
       row < s.sequence && row < (blockIdx.x + std::int64_t{1}) * warps; ++row)
    most = max(most, s.seen_by(row));
  return most;
}

template <class T>
__global__ void forward_kernel(Shape s, Heads<const T> q, Heads<const T> k, Heads<const T> v,
                               Heads<T> o, T* statistics) {
  extern __shared__ float memory[];
  const std::int64_t row = own_row(), head = blockIdx.y, batch = blockIdx.z;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const bool mine = row < s.sequence && row >= s.first_query();
  const std::int64_t seen = mine ? s.seen_by(row) : 0;
  const Tile tile(memory, s.size);
  const Own own(memory, mine ? q.row(batch, head, row) : nullptr, static_cast<const T*>(nullptr),
                s.size);
  float most = -INFINITY, sum = 0, out[per_lane_max] = {};
  const std::int64_t end = seen_by_block(s);
  for (std::int64_t begin = 0; begin < end; begin += lanes) {
    tile.load(k, v, batch, head / s.group(), begin, s.keys);
    if (begin >= seen) continue;  // the same for a warp
    const float score = begin + lane < seen
                            ? s.scale * Tile::dot(own.a, tile.a + lane * tile.stride, s.size)
                            : -INFINITY;
    const float largest = fmaxf(most, warp_max(score)), keep = expf(most - largest);
    const float p = expf(score - largest);
    sum = sum * keep + warp_sum(p);
    most = largest;
    for (float& x : out) x *= keep;
    tile.add(tile.b, p, s.size, out);
  }
  if (!mine) return;
  T* to = o.row(batch, head, row);
  for (int e = 0; e < per_lane_max; ++e)
    if (lane + e * lanes < s.size) store(to + lane + e * lanes, out[e] / sum);
  if (lane == 0 && statistics != nullptr)
    store_statistic(statistics, (batch * s.heads + head) * s.sequence + row, most + logf(sum));
}

// delta[row] = o dO, along a head; one warp per row.
template <class T>
__global__ void delta_kernel(Shape s, Heads<const T> o, Heads<const T> d_out, float* delta) {
  const std::int64_t row = own_row(), head = blockIdx.y, batch = blockIdx.z;
  if (row >= s.sequence) return;
  const T *a = o.row(batch, head, row), *b = d_out.row(batch, head, row);
  float sum = 0;
  for (int i = static_cast<int>(threadIdx.x) % lanes; i < s.size; i += lanes)
    sum += widen(a[i]) * widen(b[i]);
  sum = warp_sum(sum);
  if (threadIdx.x % lanes == 0) delta[(batch * s.heads + head) * s.sequence + row] = sum;
}

template <class T>
__global__ void query_gradient_kernel(Shape s, Heads<const T> d_out, Heads<const T> q,
                                      Heads<const T> k, Heads<const T> v, const T* statistics,
                                      const float* delta, Heads<T> dq) {
  extern __shared__ float memory[];
  const std::int64_t row = own_row(), head = blockIdx.y, batch = blockIdx.z;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const bool here = row < s.sequence, mine = here && row >= s.first_query();
  const std::int64_t seen = mine ? s.seen_by(row) : 0;
  const std::int64_t at = (batch * s.heads + head) * s.sequence + row;
  const Tile tile(memory, s.size);
  const Own own(memory, mine ? q.row(batch, head, row) : nullptr,
                mine ? d_out.row(batch, head, row) : nullptr, s.size);
  const float statistic = mine ? load_statistic(statistics, at) : 0, along = mine ? delta[at] : 0;
  float gradient[per_lane_max] = {};
  const std::int64_t end = seen_by_block(s);
  for (std::int64_t begin = 0; begin < end; begin += lanes) {
    tile.load(k, v, batch, head / s.group(), begin, s.keys);
    if (begin >= seen) continue;
    const float *key = tile.a + lane * tile.stride, *value = tile.b + lane * tile.stride;
    const float p =
        begin + lane < seen ? expf(s.scale * Tile::dot(own.a, key, s.size) - statistic) : 0.0F;
    tile.add(tile.a, s.scale * p * (Tile::dot(own.b, value, s.size) - along), s.size, gradient);
  }
  if (!here) return;
  T* to = dq.row(batch, head, row);
  for (int e = 0; e < per_lane_max; ++e)
    if (lane + e * lanes < s.size) store(to + lane + e * lanes, gradient[e]);
}

template <class T>
__global__ void key_gradient_kernel(Shape s, Heads<const T> d_out, Heads<const T> q,
                                    Heads<const T> k, Heads<const T> v, const T* statistics,
                                    const float* delta, Heads<T> dk, Heads<T> dv) {
  extern __shared__ float memory[];
  const std::int64_t key = own_row(), kv = blockIdx.y, batch = blockIdx.z;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const bool mine = key < s.keys;
  const Tile tile(memory, s.size);
  const Own own(memory, mine ? k.row(batch, kv, key) : nullptr,
                mine ? v.row(batch, kv, key) : nullptr, s.size);
  float d_key[per_lane_max] = {}, d_value[per_lane_max] = {};
  for (std::int64_t head = kv * s.group(); head < (kv + 1) * s.group(); ++head)
    for (std::int64_t begin = s.first_query() / lanes * lanes; begin < s.sequence; begin += lanes) {
      tile.load(q, d_out, batch, head, begin, s.sequence);
      const std::int64_t row = begin + lane, at = (batch * s.heads + head) * s.sequence + row;
      const bool sees = mine && row < s.sequence && row >= s.first_query() && key < s.seen_by(row);
      const float *query = tile.a + lane * tile.stride, *out = tile.b + lane * tile.stride;
      const float p =
          sees ? expf(s.scale * Tile::dot(own.a, query, s.size) - load_statistic(statistics, at))
               : 0.0F;
      const float ds = sees ? s.scale * p * (Tile::dot(own.b, out, s.size) - delta[at]) : 0.0F;
      tile.add(tile.a, ds, s.size, d_key);
      tile.add(tile.b, p, s.size, d_value);
    }
  if (!mine) return;
  T *to_key = dk.row(batch, kv, key), *to_value = dv.row(batch, kv, key);
  for (int e = 0; e < per_lane_max; ++e)
    if (lane + e * lanes < s.size) {
      store(to_key + lane + e * lanes, d_key[e]);
      store(to_value + lane + e * lanes, d_value[e]);
    }
}

template <class T>
__global__ void split_kernel(std::int64_t rows, const float* from, T* to) {
  for (std::int64_t i = first_index(); i < rows; i += all_threads())
    store_statistic(to, i, from[i]);
}
template <class T>
__global__ void join_kernel(std::int64_t rows, const T* from, float* to) {
  for (std::int64_t i = first_index(); i < rows; i += all_threads())
    to[i] = load_statistic(from, i);
}

// Q, K, V or their gradients: three operands from `first` on, or one that holds all.
template <class T>
struct Projections {
  Heads<T> q, k, v;
  Projections(const Shape& s, Views views, std::size_t first) {
    const std::int64_t tokens = s.batch * s.sequence, all = s.heads + 2 * s.kv_heads;
    auto* bulk = static_cast<T*>(views[first].data);
    if (views[first + 1].data != nullptr) {
      const bool packed = views[first].elements >= tokens * all * s.size;
      q = {bulk, s.sequence, packed ? all : s.heads, 0, s.size};
      k = {static_cast<T*>(views[first + 1].data), s.keys, s.kv_heads, 0, s.size};
      v = {static_cast<T*>(views[first + 2].data), s.keys, s.kv_heads, 0, s.size};
      return;
    }
    q = {bulk, s.sequence, all, 0, s.size};
    k = {bulk, s.sequence, all, s.heads, s.size};
    v = {bulk, s.sequence, all, s.heads + s.kv_heads, s.size};
  }
};

dim3 grid_of(const Shape& s, std::int64_t rows, std::int64_t heads) {
  return {static_cast<unsigned>((rows + warps - 1) / warps), static_cast<unsigned>(heads),
          static_cast<unsigned>(s.batch)};
}

template <class Function>
std::size_t allow_shared(Function* function, int size) {
  const std::size_t bytes = shared_bytes(size);
  check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
  return bytes;
}

}  // namespace

static_assert(threads == warps * lanes);

bool attention(cudaStream_t stream, const Kernel& kernel, Views views) {
  const Shape s(kernel);
  if (s.size > size_max || !typed(kernel, views, {0, 1, 2, 3, 4})) return false;
  return with_type(kernel.dtype, [&](auto type) {
    using T = decltype(type);
    const Projections<const T> in(s, views, 0);
    const Heads<T> out{data<T>(views[3]), s.sequence, s.heads, 0, s.size};
    T* statistics = views.size() > 4 ? data<T>(views[4]) : nullptr;
    forward_kernel<T>
        <<<grid_of(s, s.sequence, s.heads), threads, allow_shared(forward_kernel<T>, s.size),
           stream>>>(s, in.q, in.k, in.v, out, statistics);
    launched("attention");
  });
}

bool attention_backward(cudaStream_t stream, const Kernel& kernel, Views views) {
  const Shape s(kernel);
  if (s.size > size_max || !typed(kernel, views, {0, 1, 2, 3, 4, 5, 6, 7, 8})) return false;
  return with_type(kernel.dtype, [&](auto type) {
    using T = decltype(type);
    const Heads<const T> d_out{data<T>(views[0]), s.sequence, s.heads, 0, s.size};
    const Heads<const T> out{data<T>(views[4]), s.sequence, s.heads, 0, s.size};
    const Projections<const T> in(s, views, 1);
    const Projections<T> gradients(s, views, 6);
    const T* statistics = data<T>(views[5]);
    const Scratch<float> delta(s.batch * s.heads * s.sequence, stream);
    const dim3 queries = grid_of(s, s.sequence, s.heads), keys = grid_of(s, s.keys, s.kv_heads);
    delta_kernel<T><<<queries, threads, 0, stream>>>(s, out, d_out, delta.get());
    query_gradient_kernel<T>
        <<<queries, threads, allow_shared(query_gradient_kernel<T>, s.size), stream>>>(
            s, d_out, in.q, in.k, in.v, statistics, delta.get(), gradients.q);
    key_gradient_kernel<T><<<keys, threads, allow_shared(key_gradient_kernel<T>, s.size), stream>>>(
        s, d_out, in.q, in.k, in.v, statistics, delta.get(), gradients.k, gradients.v);
    launched("attention_backward");
  });
}

void split_statistics(cudaStream_t stream, Dtype dtype, std::int64_t rows, const float* from,
                      void* to) {
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    split_kernel<<<blocks(rows), threads, 0, stream>>>(rows, from, static_cast<T*>(to));
    launched("split_statistics");
  });
}

void join_statistics(cudaStream_t stream, Dtype dtype, std::int64_t rows, const void* from,
                     float* to) {
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    join_kernel<<<blocks(rows), threads, 0, stream>>>(rows, static_cast<const T*>(from), to);
    launched("join_statistics");
  });
}

}  // namespace orrery::cuda
