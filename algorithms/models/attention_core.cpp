#include "algorithms/models/attention_core.hpp"

#include "algorithms/models/context_parallel.hpp"
#include "algorithms/models/stored_attention.hpp"

namespace orrery {

void AttentionCore::forward(Rank& rank, PassProgram& pass, const Forward& v) const {
  pass.add(rank.prepare(Kernel::attention(s_.batch, s_.heads, s_.kv_heads, s_.length, s_.head_size,
                                          s_.causal, s_.dtype)),
           {v.qkv, {}, {}, v.out, v.kept});
}

void AttentionCore::backward(Rank& rank, PassProgram& pass, const Backward& v) const {
  pass.add(rank.prepare(Kernel::attention_backward(s_.batch, s_.heads, s_.kv_heads, s_.length,
                                                   s_.head_size, s_.causal, s_.dtype)),
           {v.d_out, v.qkv, {}, {}, v.out, v.kept, v.d_qkv, {}, {}});
}

namespace {

// Keeps what its backward needs.
std::unique_ptr<AttentionCore> make_keeping_core(const TransformerShape& shape,
                                                 const AttentionSizes& sizes) {
  if (shape.stored_attention) return make_stored_attention(sizes, shape.dropout);
  if (shape.context == 1) return std::make_unique<AttentionCore>(sizes);
  switch (shape.context_algorithm) {
    case ContextAlgorithm::ring:
      return make_ring_attention(sizes, shape.context);
    case ContextAlgorithm::ulysses:
      return make_ulysses_attention(sizes, shape.context);
    case ContextAlgorithm::all_gather:
      break;
  }
  return make_gathered_attention(sizes, shape.context);
}

}  // namespace

std::unique_ptr<AttentionCore> make_attention_core(const TransformerShape& shape) {
  const int t = shape.tensor;
  const AttentionSizes sizes{shape.micro_batch, shape.length(), shape.heads / t, shape.kv_heads / t,
                             shape.head_size,   shape.causal,   shape.dtype};
  std::unique_ptr<AttentionCore> core = make_keeping_core(shape, sizes);
  if (!shape.recompute_attention) return core;
  return make_recomputed_attention(sizes, std::move(core));
}

}  // namespace orrery
