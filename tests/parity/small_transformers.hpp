// Small transformers of the usual styles, on bytes, for tests of training.
#pragma once

#include "algorithms/models/transformer.hpp"

namespace orrery {

// GPT-2 style: LayerNorm, learned positions, biases, gelu, multi-head attention.
inline TransformerShape small_gpt() {
  TransformerShape s;
  s.layers = 4;
  s.hidden = 16;
  s.heads = s.kv_heads = 2;
  s.head_size = 8;
  s.ffn = 32;
  s.vocabulary = 256;
  s.gated = s.rotary = false;
  s.activation = Activation::gelu;
  s.learned_positions = 20;  // more than a sequence uses
  s.norm_bias = s.qkv_bias = s.output_bias = s.mlp_bias = true;
  s.sequence = 12;
  s.micro_batch = 2;
  s.dtype = Dtype::fp32;
  return s;
}

// Turns a GPT's style into Llama's: RMSNorm, rotary embedding, SwiGLU, no biases.
inline TransformerShape as_llama(TransformerShape s) {
  s.gated = s.rotary = true;
  s.activation = Activation::silu;
  s.learned_positions = 0;
  s.norm_bias = s.qkv_bias = s.output_bias = s.mlp_bias = s.tied = false;
  return s;
}

}  // namespace orrery
