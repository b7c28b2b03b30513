// Decoder-only transformers: GPT-2 style, Llama style, GPT-NeoX style.
//
// Vaswani et al. 2017 (arXiv 1706.03762); Radford et al. 2019 (GPT-2); Touvron et al. 2023 (Llama,
// arXiv 2302.13971): RMSNorm, rotary embedding, grouped-query attention, SwiGLU; Black et al. 2022
// (GPT-NeoX, arXiv 2204.06745, section 2.1): attention and MLP side by side. Attention is a
// fused kernel that keeps its output and one statistic per row (Dao 2023, arXiv 2307.08691).
// Norms come before attention and MLP; biases are added by the kernel that makes or takes the
// projection's output, so only their gradients are kernels of their own.
#pragma once

#include "algorithms/models/block.hpp"

namespace orrery {

// How the ranks of a context group share each sequence (context_parallel.hpp).
enum class ContextAlgorithm : std::uint8_t { ring, ulysses, all_gather };

// The type in which the products of a layer take their operands (layer_kernels.hpp).
enum class Products : std::uint8_t { as_stored, fp8_tensor, fp8_block, mxfp8, nvfp4 };
// as_stored has no type of its own.
inline Dtype dtype_of(Products products, Dtype stored) {
  if (products == Products::as_stored) return stored;
  return products == Products::nvfp4 ? Dtype::fp4 : Dtype::fp8;
}

// The gradient of the logits in their place; apart from them; or all that a loss that is computed
// operation by operation, in fp32, leaves.
enum class LossMemory : std::uint8_t { in_place, apart, eager };

struct TransformerShape {
  int layers = 1, hidden = 1, heads = 1, kv_heads = 1, head_size = 1, ffn = 1, vocabulary = 1;
  bool gated = true;  // SwiGLU: two matrices up, one down
  Activation activation = Activation::silu;
  bool rotary = true;         // else learned positions
  int learned_positions = 0;  // rows of the position table
  double rope_theta = 10000;  // base of the rotary embedding's angles
  bool norm_bias = false;     // LayerNorm instead of RMSNorm
  double norm_epsilon = 1e-5;
  bool qk_norm = false;  // of queries and keys (head_norms.hpp)
  // Latent attention (latent_attention.hpp): ranks, 0 for none; of a head of queries and keys the
  // elements that turn; the size of a head of values.
  int kv_rank = 0, q_rank = 0, rope_head = 0, v_head = 0;
  bool qkv_bias = false, output_bias = false, mlp_bias = false;
  bool tied = false;             // the head uses the embedding's table
  bool parallel_blocks = false;  // attention and MLP read the same input, each by its own norm
  bool causal = true;
  bool reversible = false;  // layers in two streams, which begin alike and are averaged at the end
  int sequence = 1, micro_batch = 1, micro_batches = 1;
  Dtype dtype = Dtype::bf16;
  Products products = Products::as_stored;
  int tensor = 1;                  // ranks that share each layer (tensor_parallel.hpp)
  bool sequence_parallel = false;  // and divide the tokens between its matrices
  // Of layers with a scale per tensor: those that their matrices read are gathered in fp8
  // (fp8_gather.hpp). Not with experts or latent attention.
  bool gathers_fp8 = false;
  // A mixture of experts in the place of the MLP, in all layers but the first `dense_layers`
  // (mixture.hpp).
  int experts = 0, experts_per_token = 1, expert_ffn = 1, shared_ffn = 0, dense_layers = 0;
  Router router = Router::softmax;
  double balance_rate = 0;  // of a bias that balances experts (expert_balance.hpp); 0: none
  // Of a timing model that drops no token: what the rank with the fullest experts has to do, over
  // the mean of the ranks that divide the experts.
  double imbalance = 1;
  double capacity = 1;  // places of an expert, over what it had if all experts were chosen alike
  int expert = 1;       // ranks that divide the experts
  int context = 1;      // ranks that share each sequence
  // The backward writes the gradients of matrices and does not add to them: nobody has to make them
  // zero before, and nothing is read. For a replica whose steps have one micro-batch, not divided
  // over pipeline stages.
  bool writes_gradients = false;
  ContextAlgorithm context_algorithm = ContextAlgorithm::ring;
  // Attention's scores are stored and kept, as before flash attention; its core keeps nothing and
  // runs again in the backward (stored_attention.hpp). Dropout of stored scores, and behind
  // attention and MLP, keeps a mask of bytes each. Stored scores and dropout are timing models.
  bool stored_attention = false, recompute_attention = false, dropout = false;
  // Of each layer the outputs of every second product, beginning with the second, are computed
  // again in the backward, from those of the others and of attention, which are kept
  // (every_second.hpp); with `keeps_unread` those too that no backward reads. Not of a mixture, nor
  // with stored scores, recomputed attention or dropout.
  bool recompute_every_second = false, keeps_unread = false;
  // What the loss leaves in memory (LanguageHead). Logits that are returned are the head's output,
  // and their gradient is apart from them.
  LossMemory loss = LossMemory::in_place;
  bool returns_logits = false;
  // mu: hidden, heads and ffn grow; vocabulary, positions and the size of a head stay, so that what
  // attention divides by does too (where heads grew in size, it would have to be that size, not its
  // root). Not of a mixture, whose router's width is the experts'.
  Parametrisation parametrisation = Parametrisation::standard;
  int base_width = 1;  // of mu

  bool latent() const { return kv_rank > 0; }
  bool mu() const { return parametrisation == Parametrisation::mu; }
  double width() const { return mu() ? static_cast<double>(hidden) / base_width : 1; }
  Norm norm() const { return norm_bias ? Norm::layer : Norm::rms; }
  int length() const {
    return sequence / context;
  }  // of a sequence, on one rank of the context axis
  std::int64_t tokens() const { return std::int64_t{micro_batch} * length(); }
  SequencePart part(std::int32_t index) const {
    return {index, context, context > 1 && context_algorithm != ContextAlgorithm::ulysses};
  }
  // What does not divide over the ranks inside a replica, or go together; empty when all does.
  std::vector<std::string> indivisible() const;
};

// Blocks: embedding, `layers` layers, head (final norm, logits, loss). Samples are `sequence` bytes
// of the text, whose targets are the bytes behind each. `text` may be null in a run without values;
// with one, Error{config} for a vocabulary below the 256 bytes there are and for a timing model.
// Error{config} for a shape that is indivisible.
Model make_transformer(const TransformerShape& shape,
                       std::shared_ptr<const std::string> text = nullptr);

}  // namespace orrery
