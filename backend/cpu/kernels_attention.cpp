// Softmax attention with grouped heads, forward and backward. The backward pass computes the
// probabilities again from the logarithm of each row's denominator, as Dao 2023 (arXiv 2307.08691)
// does on GPUs; a head's keys and values are transposed first, so that every inner loop runs along
// one row of a matrix and each sum has one order: over a head's elements, or over the positions,
// from the first to the last.
#include <algorithm>
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
  bool causal;
  float scale;
  explicit Shape(const Kernel& kernel)
      : batch(kernel.dims[0]),
        heads(kernel.dims[1]),
        kv_heads(kernel.dims[2]),
        sequence(kernel.dims[3]),
        size(kernel.dims[4]),
        causal(kernel.dims[5] != 0),
        scale(static_cast<float>(1.0 / std::sqrt(static_cast<double>(size)))) {}
  std::int64_t group() const { return heads / kv_heads; }
  std::int64_t seen_by(std::int64_t position) const { return causal ? position + 1 : sequence; }
};

// Q, K, V or their gradients: three operands from `first` on, or one that holds all.
template <class Number>
struct Projections {
  Heads<Number> q, k, v;
  Projections(const Shape& s, const Operands& operands, std::size_t first) {
    const std::int64_t tokens = s.batch * s.sequence;
    if (operands.has(first + 1)) {
      q = {operands.fp32(first, tokens * s.heads * s.size), s.sequence, s.heads, s.size, 0};
      k = {operands.fp32(first + 1, tokens * s.kv_heads * s.size), s.sequence, s.kv_heads, s.size,
           0};
      v = {operands.fp32(first + 2, tokens * s.kv_heads * s.size), s.sequence, s.kv_heads, s.size,
           0};
      return;
    }
    const std::int64_t all = s.heads + 2 * s.kv_heads;
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

// y[position] = sum over i of x[i] * m[i][position], for the first `n` positions. Four rows of m at
// a time, added from the left.
void combine_rows(const float* x, const float* m, std::int64_t size, std::int64_t stride,
                  std::int64_t n, float* __restrict__ y) {
  std::fill_n(y, n, 0.0F);
  std::int64_t i = 0;
  for (; i + 4 <= size; i += 4) {
    const float *a = m + i * stride, *b = a + stride, *c = b + stride, *d = c + stride;
    const float xa = x[i], xb = x[i + 1], xc = x[i + 2], xd = x[i + 3];
    for (std::int64_t p = 0; p < n; ++p)
      y[p] = (((y[p] + xa * a[p]) + xb * b[p]) + xc * c[p]) + xd * d[p];
  }
  for (; i < size; ++i)
    for (std::int64_t p = 0; p < n; ++p) y[p] += x[i] * m[i * stride + p];
}

// One query: o = softmax(scale q K^T) V over the first n positions; returns log of the denominator.
float attend(const float* q, const float* keys, Rows<const float> values, std::int64_t n,
             const Shape& s, float* __restrict__ p, float* __restrict__ o) {
  combine_rows(q, keys, s.size, s.sequence, n, p);
  float largest = -std::numeric_limits<float>::infinity();
  for (std::int64_t j = 0; j < n; ++j) largest = p[j] > largest ? p[j] : largest;
  for (std::int64_t j = 0; j < n; ++j) p[j] = exp_fp32(s.scale * (p[j] - largest));
  const double sum = ordered_sum(n, [p](std::int64_t j) { return static_cast<double>(p[j]); });
  const auto inverse = static_cast<float>(1.0 / sum);
  std::fill_n(o, s.size, 0.0F);
  for (std::int64_t j = 0; j < n; ++j) {
    const float weight = p[j] * inverse;
    const float* v = values[j];
    for (std::int64_t i = 0; i < s.size; ++i) o[i] += weight * v[i];
  }
  return static_cast<float>(std::log(sum) + static_cast<double>(s.scale * largest));
}

Rows<const float> constant(Rows<float> rows) { return {rows.data, rows.stride}; }

// Buffers of one thread.
struct Scratch {
  Buffer keys, values, p, dp, dk, dv;
};

// What one query adds to the gradients of its key-value head, and its own. dS = P (dP - o dO).
struct QueryGradient {
  const float *q, *output, *d_output;
  float statistic;
  float* dq;
};
void attend_backward(const QueryGradient& query, const float* keys, const float* values,
                     Rows<const float> key_rows, std::int64_t n, const Shape& s, Scratch& scratch) {
  float* __restrict__ p = scratch.p.data();
  float* __restrict__ dp = scratch.dp.data();
  float* __restrict__ dk = scratch.dk.data();
  float* __restrict__ dv = scratch.dv.data();
  float* __restrict__ dq = query.dq;
  combine_rows(query.q, keys, s.size, s.sequence, n, p);
  combine_rows(query.d_output, values, s.size, s.sequence, n, dp);
  const auto along = static_cast<float>(ordered_sum(s.size, [&](std::int64_t i) {
    return static_cast<double>(query.output[i]) * static_cast<double>(query.d_output[i]);
  }));
  for (std::int64_t j = 0; j < n; ++j) {
    p[j] = exp_fp32(s.scale * p[j] - query.statistic);
    dp[j] = s.scale * (p[j] * (dp[j] - along));
  }
  std::fill_n(dq, s.size, 0.0F);
  for (std::int64_t j = 0; j < n; ++j) {
    const float* k = key_rows[j];
    float* __restrict__ dk_row = dk + j * s.size;
    float* __restrict__ dv_row = dv + j * s.size;
    for (std::int64_t i = 0; i < s.size; ++i) {
      dq[i] += dp[j] * k[i];
      dk_row[i] += dp[j] * query.q[i];
      dv_row[i] += p[j] * query.d_output[i];
    }
  }
}

}  // namespace

void attention(const Kernel& kernel, const Operands& operands) {
  const Shape s(kernel);
  const Projections<float> in(s, operands, 0);
  const Heads<float> out{operands.fp32(3, s.batch * s.sequence * s.heads * s.size), s.sequence,
                         s.heads, s.size, 0};
  float* statistics = operands.has(4) ? operands.fp32(4, statistics_elements(kernel, s)) : nullptr;
  thread_local Scratch scratch;
  take(scratch.p, s.sequence);
  for (std::int64_t batch = 0; batch < s.batch; ++batch)
    for (std::int64_t head = 0; head < s.heads; ++head) {
      const Rows<float> q = in.q.at(batch, head), o = out.at(batch, head);
      const Rows<const float> v = constant(in.v.at(batch, head / s.group()));
      if (head % s.group() == 0)
        transpose(scratch.keys, constant(in.k.at(batch, head / s.group())), s.sequence, s.size);
      for (std::int64_t row = 0; row < s.sequence; ++row) {
        const float statistic =
            attend(q[row], scratch.keys.data(), v, s.seen_by(row), s, scratch.p.data(), o[row]);
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
  thread_local Scratch scratch;
  take(scratch.p, s.sequence);
  take(scratch.dp, s.sequence);
  for (std::int64_t batch = 0; batch < s.batch; ++batch)
    for (std::int64_t kv = 0; kv < s.kv_heads; ++kv) {
      const Rows<const float> k = constant(in.k.at(batch, kv));
      const float* keys = transpose(scratch.keys, k, s.sequence, s.size);
      const float* values =
          transpose(scratch.values, constant(in.v.at(batch, kv)), s.sequence, s.size);
      scratch.dk.assign(static_cast<std::size_t>(s.sequence * s.size), 0.0F);
      scratch.dv.assign(static_cast<std::size_t>(s.sequence * s.size), 0.0F);
      for (std::int64_t head = kv * s.group(); head < (kv + 1) * s.group(); ++head)
        for (std::int64_t row = 0; row < s.sequence; ++row) {
          const QueryGradient query{
              in.q.at(batch, head)[row], out.at(batch, head)[row], d_out.at(batch, head)[row],
              load_statistic(kernel, statistics, (batch * s.heads + head) * s.sequence + row),
              gradients.q.at(batch, head)[row]};
          attend_backward(query, keys, values, k, s.seen_by(row), s, scratch);
        }
      const Rows<float> dk = gradients.k.at(batch, kv), dv = gradients.v.at(batch, kv);
      for (std::int64_t row = 0; row < s.sequence; ++row) {
        std::copy_n(scratch.dk.data() + row * s.size, s.size, dk[row]);
        std::copy_n(scratch.dv.data() + row * s.size, s.size, dv[row]);
      }
    }
}

}  // namespace orrery::cpu
