// Softmax attention as graphs that cuDNN fuses into one kernel (Dao 2023, arXiv 2307.08691).
#pragma once

#include <compare>
#include <cstdint>
#include <memory>

#include "backend/cuda/gpu/dnn_graph.hpp"

namespace orrery::cuda::dnn {

// Operands are [batch, tokens, per_token, size] of a 16-bit type, of which a graph takes the first
// `heads` of each token's from where its address says: those of Q, O and dO, of K and V.
struct AttentionShape {
  std::int64_t batch = 0, heads = 0, kv_heads = 0, queries = 0, keys = 0, size = 0;
  bool causal = false;  // query i sees keys 0 to i
  cudnnDataType_t type = CUDNN_DATA_BFLOAT16;
  // Heads in a token's memory: of Q and its gradient, of K, V and theirs.
  std::int64_t q_per_token = 0, kv_per_token = 0;
  // Of the gradient of Q: each element one product over all keys, for which cuDNN keeps a matrix of
  // queries by keys for each head in its workspace, in place of sums in any order.
  bool repeatable = false;
  auto operator<=>(const AttentionShape&) const = default;
};

// Numbers of tensors in memory. The statistics are fp32 [batch, heads, queries], dense; as is the
// sum along each row of dO times O. The gradient of Q, unless repeatable, is summed up in fp32
// [batch, heads, queries, size], dense.
enum Uid : std::int64_t {
  uid_q = 1,
  uid_k,
  uid_v,
  uid_o,
  uid_statistics,
  uid_d_o,
  uid_d_q,
  uid_d_k,
  uid_d_v,
  uid_row_sums,
  uid_d_q_sums,
};

// For the GPU of a handle, or a described one. Null where cuDNN has no plan for such a shape.
std::unique_ptr<Plan> plan_attention(const Functions& functions, const AttentionShape& shape,
                                     cudnnHandle_t handle, const Descriptor* gpu = nullptr);
std::unique_ptr<Plan> plan_attention_backward(const Functions& functions,
                                              const AttentionShape& shape, cudnnHandle_t handle,
                                              const Descriptor* gpu = nullptr);

}  // namespace orrery::cuda::dnn
