// Multi-head latent attention: queries, keys and values from vectors of lower rank.
//
// DeepSeek-AI 2024, "DeepSeek-V2" (arXiv 2405.04434), section 2.1 and appendix C. With the norms
// N of DeepSeek-V3 (deepseek-ai/DeepSeek-V3, inference/model.py, class MLA), for heads i:
//
//   c_q = N(x W_qa);  [q_i | q_i^r] = c_q W_qb            or, without a rank for queries, x W_q
//   [c | k^r] = x W_kva;  [k_i | v_i] = N(c) W_kvb
//   head i attends with [q_i | R q_i^r] to [k_i | R k^r], whose rotated part all heads share, and
//   v_i
//
// A rank of a tensor group has its heads' columns of W_qb and W_kvb. The matrices before them, and
// the norms, are whole on every rank, with the part of their gradients that comes by its heads.
// Values are padded with zeros to the size of queries and keys, as implementations without a kernel
// for two sizes do (huggingface/transformers, models/deepseek_v3/modeling_deepseek_v3.py); the
// rotated elements are those of Llama's layout.
//
// Cost, for n tokens, H heads here of d = m + r elements, of which r turn, and values of v, ranks
// R_q and R_k: kept n (2 R_q + 2 R_k) elements besides queries, keys and padded values; products of
// 2 n (h R_q + R_q H d + h (R_k + r) + R_k H (m + v)) FLOPs forward; attention's second product
// does d / v of the FLOPs that it needs. What is assembled is copied, forward and backward.
#pragma once

#include <vector>

#include "algorithms/models/transformer_blocks.hpp"

namespace orrery {

class LatentAttention {
 public:
  // Adds its parameters to those of the block.
  LatentAttention(const TransformerShape& shape, std::vector<ParameterSpec>& parameters);

  std::int64_t kept() const { return rows_ * 2 * (q_rank_ + kv_rank_); }
  std::int64_t forward_workspace() const;
  std::int64_t backward_workspace() const;
  // Whole on every rank of a tensor group, with a part of their gradients on each.
  const std::vector<Range>& partial() const { return partial_; }

  struct Forward {
    SlotView x, qkv, kept, workspace;
  };
  // Rotated queries and keys, and padded values, token by token.
  void forward(Rank& rank, PassProgram& pass, const SequencePart& part, int parameters,
               const Forward& v) const;
  struct Backward {
    SlotView x, d_qkv, kept, d_x, workspace;
  };
  // Adds to the gradients of its parameters.
  void backward(Rank& rank, PassProgram& pass, const SequencePart& part, int parameters,
                int gradients, const Backward& v) const;

  // Of every token and head: the elements of values out of as many as queries have, or back among
  // zeros.
  void strip(Rank& rank, PassProgram& pass, const SlotView& padded, const SlotView& values) const;
  void pad(Rank& rank, PassProgram& pass, const SlotView& values, const SlotView& padded) const;
  std::int64_t values() const { return heads_ * v_; }  // of a token

 private:
  // Where parts of every head lie, in rows of `stride` elements whose heads are `head` apart.
  struct Heads {
    std::int64_t first, size, head, stride;
  };
  // What is kept, and the workspace; `latent` and what follows is the backward's alone.
  struct Places {
    SlotView q_before, q_normed, before, normed;
    SlotView queries, down, shared, both, between, latent, latent_before;
  };
  Places places(const SlotView& all_kept, const SlotView& workspace) const;
  void copy_heads(Rank& rank, PassProgram& pass, const Heads& h, const SlotView& wide,
                  const SlotView& narrow, bool back) const;
  void move_heads(Rank& rank, PassProgram& pass, const Heads& from, const SlotView& source,
                  const Heads& to, const SlotView& target, const SlotView& between) const;
  void rotate(Rank& rank, PassProgram& pass, const SequencePart& part, const SlotView& x, int heads,
              bool inverse) const;
  void fill(Rank& rank, PassProgram& pass, const SlotView& x) const;
  void product(Rank& rank, PassProgram& pass, const char* label, std::int64_t outputs,
               std::int64_t depth, const SlotView& x, const Range& matrix, int parameters,
               const SlotView& y) const;
  void gradients_of(Rank& rank, PassProgram& pass, const char* label, const char* of_input,
                    std::int64_t inputs, std::int64_t outputs, const SlotView& x,
                    const Range& matrix, int parameters, int gradients, const SlotView& dy,
                    const SlotView& dx, bool adds = false) const;
  void norm(Rank& rank, PassProgram& pass, std::int64_t size, const SlotView& x, const Range& gain,
            int parameters, const SlotView& y) const;
  void norm_backward(Rank& rank, PassProgram& pass, std::int64_t size, const SlotView& dy,
                     const SlotView& x, const Range& gain, int parameters, int gradients,
                     const SlotView& dx) const;

  std::int64_t q() const { return heads_ * size_; }
  std::int64_t up() const { return heads_ * (size_ - rope_ + v_); }    // columns of W_kvb
  Heads turned() const { return {size_ - rope_, rope_, size_, q()}; }  // of queries alone
  Heads packed(std::int64_t first, std::int64_t size) const {
    return {first, size, size_, 3 * q()};
  }
  Heads keys_up() const { return {0, size_ - rope_, size_ - rope_ + v_, up()}; }
  Heads values_up() const { return {size_ - rope_, v_, size_ - rope_ + v_, up()}; }

  TransformerShape s_;
  std::int64_t rows_, heads_, size_, rope_, v_, q_rank_, kv_rank_;
  Range q_down_, q_gain_, q_up_, kv_down_, kv_gain_, kv_up_;
  std::vector<Range> partial_;
};

}  // namespace orrery
