// Decoder-only transformers, GPT-2 style and Llama style, as a timing model: every kernel with its
// shape, bytes and FLOPs.
//
// Vaswani et al. 2017 (arXiv 1706.03762); Radford et al. 2019 (GPT-2); Touvron et al. 2023 (Llama,
// arXiv 2302.13971): RMSNorm, rotary embedding, grouped-query attention, SwiGLU. Attention is a
// fused kernel that keeps its output and one statistic per row (Dao 2023, arXiv 2307.08691).
#pragma once

#include "algorithms/models/block.hpp"

namespace orrery {

struct TransformerShape {
  int layers = 1, hidden = 1, heads = 1, kv_heads = 1, head_size = 1, ffn = 1, vocabulary = 1;
  bool gated = true;          // SwiGLU: two matrices up, one down
  bool rotary = true;         // else learned positions
  int learned_positions = 0;  // rows of the position table
  bool norm_bias = false;     // LayerNorm instead of RMSNorm
  bool qkv_bias = false, output_bias = false, mlp_bias = false;
  bool tied = false;  // the head uses the embedding's table
  bool causal = true;
  int sequence = 1, micro_batch = 1, micro_batches = 1;
  Dtype dtype = Dtype::bf16;
};

// Blocks: embedding, `layers` layers, head (final norm, logits, loss).
Model make_transformer(const TransformerShape& shape);

}  // namespace orrery
