// Norms of queries and keys, each of a head's size, before they are rotated.
//
// Henry et al. 2020, "Query-Key Normalization for Transformers" (arXiv 2010.04245), as Qwen3 has it
// (huggingface/transformers, src/transformers/models/qwen3/modeling_qwen3.py): an RMS norm for all
// heads of queries and one for those of keys, with a gain of a head's size. A rank of a tensor
// group has the gradients of the gains by its heads.
//
// Cost, for n tokens of q and k elements of queries and of keys: kept n (q + k) elements. Queries
// and keys lie between each other in a tensor of all three, so each is copied out and back, forward
// and backward: 4 n (q + k) elements read and 4 n (q + k) written besides the norms' own.
#pragma once

#include "algorithms/models/attention_core.hpp"
#include "algorithms/models/every_second.hpp"

namespace orrery {

class HeadNorms {
 public:
  HeadNorms(const AttentionSizes& sizes, double epsilon) : s_(sizes), epsilon_(epsilon) {}

  std::int64_t gains() const { return 2 * s_.head_size; }  // of queries, of keys
  std::int64_t kept() const { return s_.rows() * (s_.q() + s_.kv()); }
  // Of each of the tensors `work`.
  std::int64_t workspace() const { return s_.rows() * s_.q(); }

  void forward(Rank& rank, PassProgram& s, const SlotView& qkv, const SlotView& gains,
               const SlotView& kept, const SlotView& work) const {
    for (const bool keys : {false, true}) {
      const Part part = part_of(keys);
      const SlotView before = within(kept, part.kept, part.columns.elements());
      const SlotView after = within(work, 0, part.columns.elements());
      copy_columns(rank, s, part.columns, s_.dtype, qkv, before);
      s.add(rank.prepare(Kernel::norm(part.rows, s_.head_size, Norm::rms, epsilon_, s_.dtype)),
            {before, within(gains, part.gain, s_.head_size), {}, after});
      copy_columns(rank, s, part.columns, s_.dtype, qkv, after, true);
    }
  }
  // `d_qkv` in place; adds to `d_gains`.
  void backward(Rank& rank, PassProgram& s, const SlotView& d_qkv, const SlotView& gains,
                const SlotView& d_gains, const SlotView& kept, const SlotView& work,
                const SlotView& more_work) const {
    for (const bool keys : {false, true}) {
      const Part part = part_of(keys);
      const std::int64_t n = part.columns.elements();
      const SlotView dy = within(work, 0, n), dx = within(more_work, 0, n);
      copy_columns(rank, s, part.columns, s_.dtype, d_qkv, dy);
      s.add(rank.prepare(Kernel::norm_backward(part.rows, s_.head_size, Norm::rms, epsilon_, false,
                                               s_.dtype)),
            {dy,
             within(kept, part.kept, n),
             within(gains, part.gain, s_.head_size),
             {},
             within(d_gains, part.gain, s_.head_size),
             {},
             dx});
      copy_columns(rank, s, part.columns, s_.dtype, d_qkv, dx, true);
    }
  }

 private:
  struct Part {
    ColumnRange columns;
    std::int64_t rows, kept, gain;  // of the norm; where it begins
  };
  Part part_of(bool keys) const {
    const std::int64_t rows = s_.rows(), packed = s_.packed();
    if (!keys) return {{rows, s_.q(), 0, packed}, rows * s_.heads, 0, 0};
    return {{rows, s_.kv(), s_.q(), packed}, rows * s_.kv_heads, rows * s_.q(), s_.head_size};
  }
  static SlotView within(const SlotView& view, std::int64_t begin, std::int64_t elements) {
    return {view.slot, view.begin + begin, elements};
  }
  AttentionSizes s_;
  double epsilon_;
};

}  // namespace orrery
