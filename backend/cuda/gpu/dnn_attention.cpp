#include "backend/cuda/gpu/dnn_attention.hpp"

#include <cmath>
#include <limits>
#include <utility>

namespace orrery::cuda::dnn {

namespace {

using Tensor = Graph::Tensor;

constexpr auto fp32 = CUDNN_DATA_FLOAT;

// What both directions share: a graph, the shapes in it, and the operands' tensors. cuDNN knows
// attention by the form of its graph, the order of operations included.
struct Builder {
  AttentionShape s;
  Graph graph;
  Extents scores;  // of a matrix with a row per query and a column per key
  Extents rows;    // of a number per query
  Tensor scale;

  Builder(const Functions& functions, const AttentionShape& shape)
      : s(shape),
        graph(functions),
        scores{s.batch, s.heads, s.queries, s.keys},
        rows{s.batch, s.heads, s.queries, 1},
        scale(graph.constant(static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.size))))) {}

  Tensor tokens(std::int64_t uid, std::int64_t heads, std::int64_t tokens, std::int64_t per_token) {
    return graph.in_memory(uid, s.type, {s.batch, heads, tokens, s.size},
                           {tokens * per_token * s.size, s.size, per_token * s.size, 1});
  }
  Tensor of_queries(std::int64_t uid) { return tokens(uid, s.heads, s.queries, s.q_per_token); }
  Tensor of_keys(std::int64_t uid) { return tokens(uid, s.kv_heads, s.keys, s.kv_per_token); }
  Tensor of_outputs(std::int64_t uid) { return tokens(uid, s.heads, s.queries, s.heads); }
  // The same memory with keys as columns.
  Tensor of_keys_transposed(std::int64_t uid) {
    return graph.in_memory(uid, s.type, {s.batch, s.kv_heads, s.size, s.keys},
                           {s.keys * s.kv_per_token * s.size, s.size, 1, s.kv_per_token * s.size});
  }
  Tensor row_numbers(std::int64_t uid) { return graph.in_memory(uid, fp32, rows, dense(rows)); }

  Tensor product(const Tensor& a, const Tensor& b) {
    const Tensor c = graph.between(fp32, {s.batch, s.heads, a.extents[2], b.extents[3]});
    graph.multiply(a, b, c);
    return c;
  }
  Tensor apply(cudnnPointwiseMode_t mode, const Tensor& x) {
    const Tensor y = graph.between(fp32, x.extents);
    graph.apply(mode, x, y);
    return y;
  }
  Tensor apply(cudnnPointwiseMode_t mode, const Tensor& x, const Tensor& b) {
    const Tensor y = graph.between(fp32, x.extents);
    graph.apply(mode, x, b, y);
    return y;
  }
  Tensor over_rows(cudnnReduceTensorOp_t operation, const Tensor& x) {
    const Tensor y = graph.between(fp32, rows);
    graph.reduce(operation, x, y);
    return y;
  }
  // -infinity where a query does not see a key.
  Tensor masked(const Tensor& x) {
    if (!s.causal) return x;
    const Tensor row = graph.between(CUDNN_DATA_INT32, scores),
                 column = graph.between(CUDNN_DATA_INT32, scores),
                 seen = graph.between(CUDNN_DATA_BOOLEAN, scores), y = graph.between(fp32, scores);
    const Tensor nothing = graph.constant(-std::numeric_limits<float>::infinity());
    graph.index(2, x, row);
    graph.index(3, x, column);
    graph.apply(CUDNN_POINTWISE_CMP_GE, row, column, seen, CUDNN_DATA_BOOLEAN);
    graph.select(seen, x, nothing, y);
    return y;
  }
  // In the type of the operands, with keys as rows.
  Tensor transposed(const Tensor& x) {
    const Tensor y = graph.between(s.type, {s.batch, s.heads, s.keys, s.queries},
                                   {s.heads * s.queries * s.keys, s.queries * s.keys, 1, s.keys});
    graph.reshape(x, y);
    return y;
  }
  // to = a b for each head of the queries, summed over those that share one of the keys.
  void shared_product(const Tensor& a, const Tensor& b, const Tensor& to) {
    if (s.heads == s.kv_heads) {
      graph.multiply(a, b, to);
      return;
    }
    const Tensor each = graph.between(s.type, {s.batch, s.heads, s.keys, s.size});
    graph.multiply(a, b, each);
    graph.reduce(CUDNN_REDUCE_TENSOR_ADD, each, to);
  }
};

}  // namespace

std::unique_ptr<Plan> plan_attention(const Functions& functions, const AttentionShape& shape,
                                     cudnnHandle_t handle, const Descriptor* gpu) {
  Builder b(functions, shape);
  const Tensor q = b.of_queries(uid_q), k = b.of_keys_transposed(uid_k), v = b.of_keys(uid_v),
               o = b.of_outputs(uid_o);
  const Tensor scores = b.masked(b.apply(CUDNN_POINTWISE_MUL, b.product(q, k), b.scale));
  const Tensor largest = b.over_rows(CUDNN_REDUCE_TENSOR_MAX, scores);
  const Tensor exponentials =
      b.apply(CUDNN_POINTWISE_EXP, b.apply(CUDNN_POINTWISE_SUB, scores, largest));
  const Tensor sum = b.over_rows(CUDNN_REDUCE_TENSOR_ADD, exponentials);
  b.graph.apply(CUDNN_POINTWISE_ADD, largest, b.apply(CUDNN_POINTWISE_LOG, sum),
                b.row_numbers(uid_statistics));
  const Tensor p = b.graph.between(b.s.type, b.scores);  // as tensor cores take it
  b.graph.apply(CUDNN_POINTWISE_DIV, exponentials, sum, p);
  b.graph.multiply(p, v, o);
  return b.graph.plan(handle, gpu);
}

std::unique_ptr<Plan> plan_attention_backward(const Functions& functions,
                                              const AttentionShape& shape, cudnnHandle_t handle,
                                              const Descriptor* gpu) {
  Builder b(functions, shape);
  const Tensor q = b.of_queries(uid_q), k = b.of_keys_transposed(uid_k),
               v = b.of_keys_transposed(uid_v), o = b.of_outputs(uid_o),
               d_o = b.of_outputs(uid_d_o), statistics = b.row_numbers(uid_statistics);
  const Tensor d_q = b.of_queries(uid_d_q), d_k = b.of_keys(uid_d_k), d_v = b.of_keys(uid_d_v);

  // The sums of dO times O, kept in memory.
  const Tensor row_sums = b.row_numbers(uid_row_sums);
  b.graph.apply(CUDNN_POINTWISE_MUL,
                b.over_rows(CUDNN_REDUCE_TENSOR_ADD, b.apply(CUDNN_POINTWISE_MUL, d_o, o)),
                b.graph.constant(1), row_sums);

  const Tensor scores = b.apply(CUDNN_POINTWISE_MUL, b.product(q, k), b.scale);
  const Tensor p =
      b.apply(CUDNN_POINTWISE_EXP, b.masked(b.apply(CUDNN_POINTWISE_SUB, scores, statistics)));
  b.shared_product(b.transposed(p), d_o, d_v);

  const Tensor d_p = b.apply(CUDNN_POINTWISE_SUB, b.product(d_o, v), row_sums);
  const Tensor d_scores =
      b.apply(CUDNN_POINTWISE_MUL, b.apply(CUDNN_POINTWISE_MUL, d_p, p), b.scale);
  b.shared_product(b.transposed(d_scores), q, d_k);

  const Extents& kt = k.strides;
  const Tensor keys = b.graph.between(b.s.type, {b.s.batch, b.s.kv_heads, b.s.keys, b.s.size},
                                      {kt[0], kt[1], kt[3], kt[2]});
  b.graph.reshape(k, keys);
  if (shape.repeatable) {
    b.graph.multiply(d_scores, keys, d_q);
    return b.graph.plan(handle, gpu);
  }
  const Extents of_sums{b.s.batch, b.s.heads, b.s.queries, b.s.size};
  const Tensor d_q_sums = b.graph.in_memory(uid_d_q_sums, fp32, of_sums, dense(of_sums));
  b.graph.multiply(d_scores, keys, d_q_sums);
  b.graph.apply(CUDNN_POINTWISE_IDENTITY, d_q_sums, d_q);
  return b.graph.plan(handle, gpu);
}

}  // namespace orrery::cuda::dnn
