// Context parallelism: attention over ranks that each hold a part of every sequence.
//
//   ring        Liu et al. 2023, "Ring Attention with Blockwise Transformers" (arXiv 2310.01889):
//               queries stay, keys and values travel around a ring; partial results are merged by
//               the logarithms of their denominators. Backward, keys and values travel again and
//               their gradients follow them home.
//   ulysses     Jacobs et al. 2023, "DeepSpeed Ulysses" (arXiv 2309.14509): all-to-alls exchange
//               tokens for heads, so that each rank has whole sequences of some heads.
//   all-gather  keys and values of all ranks are gathered before attention, their gradients
//               reduce-scattered after it (Llama 3, arXiv 2407.21783, section 3.3.2).
//
// Ring and all-gather give a rank the parts i and 2c - 1 - i of 2c, so that under a causal mask all
// ranks have equal work (the load balance of NVIDIA/Megatron-LM,
// docs/user-guide/features/context_parallel.md); ulysses gives it part i of c.
//
// Cost, for c ranks, on each of them n tokens and B bytes per element, q and k elements per token
// of queries and of keys; per layer and micro-batch, sent by each rank:
//   ring        forward 2 (c-1) n k B, backward 4 (c-1) n k B                  by sends
//   ulysses     2 (c-1)/c n (q + k) B forward, as much backward                  by all-to-alls
//   all-gather  forward 2 (c-1) n k B, backward 4 (c-1) n k B    half of the latter reduce-scatters
// Gradients of parameters are averaged over the context axis with those of the replicas.
#pragma once

#include <memory>

#include "algorithms/models/attention_core.hpp"

namespace orrery {

std::unique_ptr<AttentionCore> make_ring_attention(const AttentionSizes& sizes, int ranks);
std::unique_ptr<AttentionCore> make_ulysses_attention(const AttentionSizes& sizes, int ranks);
std::unique_ptr<AttentionCore> make_gathered_attention(const AttentionSizes& sizes, int ranks);

}  // namespace orrery
