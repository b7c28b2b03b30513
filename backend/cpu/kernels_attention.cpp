// Softmax attention with grouped heads, forward and backward. The backward pass computes the
// probabilities again from the logarithm of each row's denominator, as Dao 2023 (arXiv 2307.08691)
// does on GPUs; a head's keys and values are transposed first, so that every inner loop runs along
// one row of a matrix and each sum has one order: over a head's elements, or over the positions,
// from the first to the last.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "backend/cpu/math_fp32.hpp"
#include "backend/cpu/operands.hpp"
#include "backend/cpu/reduce.hpp"

namespace orrery::cpu {

namespace {

// Rows of one head: element i of the row at position p is data[p * stride + i].
template <class Number>
struct Rows {
  Number* data = nullptr;
  std::int64_t stride = 0;
  Number* operator[](std::int64_t position) const { return data + position * stride; }
};

// A [batch, sequence, heads, size] operand, or the part of one that begins at head `first`.
template <class Number>
struct Heads {
  Number* data = nullptr;
  std::int64_t sequence = 0, per_token = 0, size = 0, first = 0;
  Rows<Number> at(std::int64_t batch, std::int64_t head) const {
    return {data + (batch * sequence * per_token + first + head) * size, per_token * size};
  }
};

struct Shape {
  std::int64_t batch, heads, kv_heads, sequence, size;
  AttentionPart which;
  SequencePart part;
  std::int64_t keys;  // per sequence
  float scale;
  explicit Shape(const Kernel& kernel)
      : batch(kernel.dims[0]),
        heads(kernel.dims[1]),
        kv_heads(kernel.dims[2]),
        sequence(kernel.dims[3]),
        size(kernel.dims[4]),
        which(static_cast<AttentionPart>(kernel.dims[5])),
        part(kernel.part),
        keys(which == AttentionPart::prefix ? sequence * part.of : sequence),
        scale(static_cast<float>(1.0 / std::sqrt(static_cast<double>(size)))) {}
  std::int64_t group() const { return heads / kv_heads; }
  // The keys that the query in a row sees are the first ones.
  std::int64_t seen_by(std::int64_t row) const {
    switch (which) {
      case AttentionPart::causal:
        return row + 1;
      case AttentionPart::early_keys:
        return keys / 2;
      case AttentionPart::prefix:
        return part.position(row, sequence) + 1;
      default:
        return keys;
    }
  }
  std::int64_t first_query() const {
    return which == AttentionPart::late_queries ? sequence / 2 : 0;
  }
};

// Q, K, V or their gradients: three operands from `first` on, or one that holds all.
template <class Number>
struct Projections {
  Heads<Number> q, k, v;
  Projections(const Shape& s, const Operands& operands, std::size_t first) {
    const std::int64_t tokens = s.batch * s.sequence, all = s.heads + 2 * s.kv_heads;
    if (operands.has(first + 1)) {
      const std::int64_t others = s.batch * s.keys * s.kv_heads * s.size;
      const bool packed =
          operands.any(first, tokens * s.heads * s.size).elements >= tokens * all * s.size;
      q = {operands.fp32(first, tokens * s.heads * s.size), s.sequence, packed ? all : s.heads,
           s.size, 0};
      k = {operands.fp32(first + 1, others), s.keys, s.kv_heads, s.size, 0};
      v = {operands.fp32(first + 2, others), s.keys, s.kv_heads, s.size, 0};
      return;
    }
    q = {operands.fp32(first, tokens * all * s.size), s.sequence, all, s.size, 0};
    k = v = q;
    k.first = s.heads;
    v.first = s.heads + s.kv_heads;
  }
};

// In 16 bits a statistic is the sum of two elements: its rounding and what that left.
void store_statistic(const Kernel& kernel, float* statistics, std::int64_t i, float value) {
  if (size_of(kernel.dtype) != 2) {
    statistics[i] = value;
    return;
  }
  const float high =
      kernel.dtype == Dtype::bf16 ? from_bf16(to_bf16(value)) : from_fp16(to_fp16(value));
  statistics[2 * i] = high;
  statistics[2 * i + 1] = value - high;
}
float load_statistic(const Kernel& kernel, const float* statistics, std::int64_t i) {
  return size_of(kernel.dtype) != 2 ? statistics[i] : statistics[2 * i] + statistics[2 * i + 1];
}
std::int64_t statistics_elements(const Kernel& kernel, const Shape& s) {
  return s.batch * s.heads * s.sequence * (size_of(kernel.dtype) == 2 ? 2 : 1);
}

using Buffer = std::vector<float>;

float* take(Buffer& buffer, std::int64_t elements) {
  if (buffer.size() < static_cast<std::size_t>(elements))
    buffer.resize(static_cast<std::size_t>(elements));
  return buffer.data();
}

// to[i][position] = from[position][i]
float* transpose(Buffer& buffer, Rows<const float> from, std::int64_t sequence, std::int64_t size) {
  float* to = take(buffer, sequence * size);
  for (std::int64_t position = 0; position < sequence; ++position)
    for (std::int64_t i = 0; i < size; ++i) to[i * sequence + position] = from[position][i];
  return to;
}

// y[i] = sum over `rows` of x[row] * m[row][i], for i < n. Four rows at a time, added from the
// left.
void combine_rows(const float* x, const float* m, std::int64_t rows, std::int64_t stride,
                  std::int64_t n, float* __restrict__ y) {
  std::fill_n(y, n, 0.0F);
  std::int64_t row = 0;
  for (; row + 4 <= rows; row += 4) {
    const float *a = m + row * stride, *b = a + stride, *c = b + stride, *d = c + stride;
    const float xa = x[row], xb = x[row + 1], xc = x[row + 2], xd = x[row + 3];
    for (std::int64_t i = 0; i < n; ++i)
      y[i] = (((y[i] + xa * a[i]) + xb * b[i]) + xc * c[i]) + xd * d[i];
  }
  for (; row < rows; ++row)
    for (std::int64_t i = 0; i < n; ++i) y[i] += x[row] * m[row * stride + i];
}

// Four queries are worked on together in the backward pass.
constexpr std::size_t together = 4;
using Four = std::array<const float*, together>;

// y[j][i] += sum over the four of weights[j] * x[i], added from the left, for j < rows, i < n.
void add_outer(const Four& weights, const Four& x, std::int64_t rows, std::int64_t n,
               float* __restrict__ y) {
  const float* __restrict__ a = x[0], * __restrict__ b = x[1], * __restrict__ c = x[2], * __restrict__ d = x[3];
  for (std::int64_t j = 0; j < rows; ++j, y += n) {
    const float wa = weights[0][j], wb = weights[1][j], wc = weights[2][j], wd = weights[3][j];
    for (std::int64_t i = 0; i < n; ++i)
      y[i] = (((y[i] + wa * a[i]) + wb * b[i]) + wc * c[i]) + wd * d[i];
  }
}

// One query: o = softmax(scale q K^T) V over the first n positions; returns log of the denominator.
float attend(const float* q, const float* keys, Rows<const float> values, std::int64_t n,
             const Shape& s, float* __restrict__ p, float* __restrict__ o) {
  combine_rows(q, keys, s.size, s.keys, n, p);
  float largest = -std::numeric_limits<float>::infinity();
  for (std::int64_t j = 0; j < n; ++j) largest = p[j] > largest ? p[j] : largest;
  for (std::int64_t j = 0; j < n; ++j) p[j] = exp_fp32(s.scale * (p[j] - largest));
  const double sum = ordered_sum(n, [p](std::int64_t j) { return static_cast<double>(p[j]); });
  const auto inverse = static_cast<float>(1.0 / sum);
  for (std::int64_t j = 0; j < n; ++j) p[j] *= inverse;
  combine_rows(p, values.data, n, values.stride, s.size, o);
  return static_cast<float>(std::log(sum) + static_cast<double>(s.scale * largest));
}

Rows<const float> constant(Rows<float> rows) { return {rows.data, rows.stride}; }

// Buffers of one thread.
struct Work {
  Buffer keys, values, p, ds, dk, dv;
};

// One query's probabilities and dS = scale P (dP - o dO), and its own gradient. Positions that it
// does not see get zeros.
struct QueryGradient {
  const float *q, *output, *d_output;
  float statistic;
  float* dq;
};
void attend_backward(const QueryGradient& query, const float* keys, const float* values,
                     Rows<const float> key_rows, std::int64_t n, const Shape& s,
                     float* __restrict__ p, float* __restrict__ ds) {
  combine_rows(query.q, keys, s.size, s.keys, n, p);
  combine_rows(query.d_output, values, s.size, s.keys, n, ds);
  const auto along = static_cast<float>(ordered_sum(s.size, [&](std::int64_t i) {
    return static_cast<double>(query.output[i]) * static_cast<double>(query.d_output[i]);
  }));
  for (std::int64_t j = 0; j < n; ++j) {
    p[j] = exp_fp32(s.scale * p[j] - query.statistic);
    ds[j] = s.scale * (p[j] * (ds[j] - along));
  }
  std::fill(p + n, p + s.keys, 0.0F);
  std::fill(ds + n, ds + s.keys, 0.0F);
  combine_rows(ds, key_rows.data, n, key_rows.stride, s.size, query.dq);
}

}  // namespace

void attention(const Kernel& kernel, const Operands& operands) {
  const Shape s(kernel);
  const Projections<float> in(s, operands, 0);
  const Heads<float> out{operands.fp32(3, s.batch * s.sequence * s.heads * s.size), s.sequence,
                         s.heads, s.size, 0};
  float* statistics = operands.has(4) ? operands.fp32(4, statistics_elements(kernel, s)) : nullptr;
  thread_local Work work;
  take(work.p, s.keys);
  for (std::int64_t batch = 0; batch < s.batch; ++batch)
    for (std::int64_t head = 0; head < s.heads; ++head) {
      const Rows<float> q = in.q.at(batch, head), o = out.at(batch, head);
      const Rows<const float> v = constant(in.v.at(batch, head / s.group()));
      if (head % s.group() == 0)
        transpose(work.keys, constant(in.k.at(batch, head / s.group())), s.keys, s.size);
      for (std::int64_t row = s.first_query(); row < s.sequence; ++row) {
        const float statistic =
            attend(q[row], work.keys.data(), v, s.seen_by(row), s, work.p.data(), o[row]);
        if (statistics != nullptr)
          store_statistic(kernel, statistics, (batch * s.heads + head) * s.sequence + row,
                          statistic);
      }
    }
}

void attention_backward(const Kernel& kernel, const Operands& operands) {
  const Shape s(kernel);
  const std::int64_t all = s.batch * s.sequence * s.heads * s.size;
  const Heads<float> d_out{operands.fp32(0, all), s.sequence, s.heads, s.size, 0};
  const Projections<float> in(s, operands, 1), gradients(s, operands, 6);
  const Heads<float> out{operands.fp32(4, all), s.sequence, s.heads, s.size, 0};
  const float* statistics = operands.fp32(5, statistics_elements(kernel, s));
  thread_local Work work;
  take(work.p, static_cast<std::int64_t>(together) * s.keys);
  take(work.ds, static_cast<std::int64_t>(together) * s.keys);
  for (std::int64_t batch = 0; batch < s.batch; ++batch)
    for (std::int64_t kv = 0; kv < s.kv_heads; ++kv) {
      const Rows<const float> k = constant(in.k.at(batch, kv));
      const float* keys = transpose(work.keys, k, s.keys, s.size);
      const float* values = transpose(work.values, constant(in.v.at(batch, kv)), s.keys, s.size);
      work.dk.assign(static_cast<std::size_t>(s.keys * s.size), 0.0F);
      work.dv.assign(static_cast<std::size_t>(s.keys * s.size), 0.0F);
      for (std::int64_t head = kv * s.group(); head < (kv + 1) * s.group(); ++head) {
        const Rows<float> dq = gradients.q.at(batch, head);
        for (std::int64_t row = 0; row < s.first_query(); ++row) std::fill_n(dq[row], s.size, 0.0F);
        for (std::int64_t first = s.first_query(); first < s.sequence; first += together) {
          const std::int64_t count = std::min<std::int64_t>(together, s.sequence - first);
          Four p{}, ds{}, q{}, d_output{};
          for (std::size_t i = 0; i < together; ++i) {
            float* p_row = work.p.data() + static_cast<std::int64_t>(i) * s.keys;
            float* ds_row = work.ds.data() + static_cast<std::int64_t>(i) * s.keys;
            const std::int64_t row = first + std::min(static_cast<std::int64_t>(i), count - 1);
            p[i] = p_row, ds[i] = ds_row;
            q[i] = in.q.at(batch, head)[row], d_output[i] = d_out.at(batch, head)[row];
            if (static_cast<std::int64_t>(i) >= count) {  // beyond the end: weights of zero
              std::fill_n(p_row, s.keys, 0.0F);
              std::fill_n(ds_row, s.keys, 0.0F);
              continue;
            }
            const QueryGradient query{
                q[i], out.at(batch, head)[row], d_output[i],
                load_statistic(kernel, statistics, (batch * s.heads + head) * s.sequence + row),
                dq[row]};
            attend_backward(query, keys, values, k, s.seen_by(row), s, p_row, ds_row);
          }
          std::int64_t seen = 0;  // by any of the four
          for (std::int64_t i = 0; i < count; ++i) seen = std::max(seen, s.seen_by(first + i));
          add_outer(ds, q, seen, s.size, work.dk.data());
          add_outer(p, d_output, seen, s.size, work.dv.data());
        }
      }
      const Rows<float> dk = gradients.k.at(batch, kv), dv = gradients.v.at(batch, kv);
      for (std::int64_t row = 0; row < s.keys; ++row) {
        std::copy_n(work.dk.data() + row * s.size, s.size, dk[row]);
        std::copy_n(work.dv.data() + row * s.size, s.size, dv[row]);
      }
    }
}

// With logarithms a and b of the denominators, the denominator over both sets of keys is e^a + e^b.
void attention_merge(const Kernel& kernel, const Operands& operands) {
  const Shape s(kernel);
  const std::int64_t all = s.batch * s.sequence * s.heads * s.size;
  float* out = operands.fp32(0, all);
  float* statistics = operands.fp32(1, statistics_elements(kernel, s));
  const float* other_out = operands.fp32(2, all);
  const float* other_statistics = operands.fp32(3, statistics_elements(kernel, s));
  for (std::int64_t batch = 0; batch < s.batch; ++batch)
    for (std::int64_t head = 0; head < s.heads; ++head)
      for (std::int64_t row = s.first_query(); row < s.sequence; ++row) {
        const std::int64_t at = (batch * s.heads + head) * s.sequence + row;
        const double a = static_cast<double>(load_statistic(kernel, statistics, at));
        const double b = static_cast<double>(load_statistic(kernel, other_statistics, at));
        const double both = std::max(a, b) + std::log1p(std::exp(-std::fabs(a - b)));
        const auto mine = static_cast<float>(std::exp(a - both)),
                   theirs = static_cast<float>(std::exp(b - both));
        const std::int64_t begin = ((batch * s.sequence + row) * s.heads + head) * s.size;
        for (std::int64_t i = begin; i < begin + s.size; ++i)
          out[i] = mine * out[i] + theirs * other_out[i];
        store_statistic(kernel, statistics, at, static_cast<float>(both));
      }
}

}  // namespace orrery::cpu
