// How the FLOPs of a training step are counted, for MFU.
//
// Per token, with L layers, hidden size h, head size d, a heads and k of keys and values, MLP
// matrices c (2 or 3) of h x f, vocabulary V, sequence s, N parameters; forward and backward
// together, one multiply-add counting two:
//
//   full             6 [ L (h d (a + 2k) + a d h + c h f) + h V ] + 12 L a d s
//                    every GEMM, the whole s^2 of attention
//   megatron-causal  the same with 6 L a d s (NVIDIA/Megatron-LM, megatron/training/training.py,
//                    num_floating_point_operations)
//   palm             6 N + 12 L a d s (Chowdhery et al. 2022, appendix B)
//   6n               6 N (Kaplan et al. 2020)
//
// N counts every parameter once, the embedding included, but of a mixture's experts as many as a
// token passes; their GEMMs and the router's count likewise, and latent attention's by its ranks.
// Embedding look-ups and recomputation count in no rule; `executed` adds what recomputation runs,
// for HFU. A window of attention does not change a rule. Residual networks and Fourier operators
// count per sample: full (and megatron-causal) is every product, three times the forward's but for
// the first layer, which passes no gradient on; Fourier transforms do not count.
#pragma once

#include <cstdint>

#include "backend/core/units.hpp"
#include "scenarios/model_spec.hpp"

namespace orrery {

enum class FlopRule { full, megatron_causal, palm, six_n };
const char* name(FlopRule rule);  // "megatron-causal"

// Of one token of a sequence of this length (transformer), or of one sample (all others, whose
// attention terms are 0).
Flops flops_per_token(const ModelSpec& model, std::int64_t sequence, FlopRule rule);
// Tokens that a step learns from: batch x sequence, or one per sample of any other model.
std::int64_t tokens_per_step(const ModelSpec& model, std::int64_t sequence,
                             std::int64_t global_batch);
Flops flops_per_step(const ModelSpec& model, std::int64_t sequence, std::int64_t global_batch,
                     FlopRule rule);
// What runs a second time: nothing, attention's two products, every second product of each layer
// without sequence parallelism (algorithms/models/every_second.hpp), every layer (not the head).
enum class Recomputed { nothing, attention, every_second_product, layers };
// With that; megatron-causal halves attention, all other rules count it whole.
Flops executed_flops_per_step(const ModelSpec& model, std::int64_t sequence,
                              std::int64_t global_batch, FlopRule rule, Recomputed again);

}  // namespace orrery
