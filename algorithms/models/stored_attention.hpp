// Attention that stores its scores, as before flash attention, and attention that runs again.
//
// Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models" (arXiv
// 2205.05198). Cost, for a heads, sequences of s tokens, micro-batches of b, B bytes per element:
//   stored      S = Q K^T, P = softmax(S), D = dropout(P), O = D V, each a kernel of its own;
//               kept: P, B a b s^2 bytes, and with dropout D and a mask, (1 + B) a b s^2 more
//               (section 4.1); every score is computed, the masked ones too
//   recomputed  keeps nothing; the forward runs again in the backward, 4 b s^2 h FLOPs, with its
//               communication where sequences are divided (section 5)
#pragma once

#include <memory>

#include "algorithms/models/attention_core.hpp"

namespace orrery {

// A timing model: its kernels have no values.
std::unique_ptr<AttentionCore> make_stored_attention(const AttentionSizes& sizes, bool dropout);
std::unique_ptr<AttentionCore> make_recomputed_attention(const AttentionSizes& sizes,
                                                         std::unique_ptr<AttentionCore> core);

}  // namespace orrery
