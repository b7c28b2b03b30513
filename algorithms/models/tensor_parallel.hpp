// Tensor and sequence parallelism: how the ranks of one group share the matrices of a block.
//
// Shoeybi et al. 2019, "Megatron-LM" (arXiv 1909.08053), section 3: the matrix before an activation
// function is divided by columns, the one behind it by rows; attention is divided by heads; an
// embedding and the logits by the vocabulary. Korthikanti et al. 2022, "Reducing Activation
// Recomputation in Large Transformer Models" (arXiv 2205.05198), section 4.2: what lies between,
// norms and residuals, is divided by tokens (sequence parallelism).
//
//   Y_r = act(X A_r);   Z = sum over ranks r of Y_r B_r           A = [A_1 … A_t], B = [B_1; …;
//   B_t] backward:  dX = sum over r of dY_r A_r^T sequence parallel:  X = all_gather(X_r), Z_r =
//   reduce_scatter(Y_r B_r), backward in mirror image
//
// Cost, for t ranks, a block's input of n = tokens x hidden elements of B bytes on each rank
// (t n / t with sequence parallelism), per layer and micro-batch, sent by each rank:
//   tensor     2 all-reduces forward, 2 backward                             8 (t-1)/t n B
//   sequence   2 all-gathers and 2 reduce-scatters forward, 4 and 2 backward,
//              for the gathered inputs of matrices are not kept                10 (t-1)/t n B
//              with gathers in fp8 (fp8_gather.hpp): 6 (t-1)/t n + 4 (t-1)/t n B + 48 (t-1)/t
// Embedding: an all-reduce (reduce-scatter) forward, and with sequence parallelism an all-gather
// backward. Logits: an all-reduce backward, or an all-gather forward, an all-gather and a
// reduce-scatter backward; the loss: all-reduces of 1 and of 2 fp32 numbers per token (maximum; sum
// of exponentials and target's logit). With sequence parallelism the gradients of what every rank
// holds whole (norms, biases behind the sums, positions) are each rank's tokens' only: their sums
// over the group are an all-reduce per run of neighbouring parameters and step.
#pragma once

#include "algorithms/models/pass_program.hpp"

namespace orrery {

// One rank's membership of a tensor-parallel group, as passes of blocks use it. A group of one
// communicates nothing.
class TensorParallel {
 public:
  TensorParallel() = default;
  TensorParallel(int size, bool sequence) : size_(size), sequence_(sequence && size > 1) {}
  // Set-up; `partial`: there are sums of partial gradients. Error{config} where the grid has
  // another size.
  void open(Rank& rank, bool partial);

  int size() const { return size_; }
  bool alone() const { return size_ == 1; }
  bool sequence() const { return sequence_; }  // tokens are divided between matrices
  // The tokens of `all` that lie on one rank between matrices.
  std::int64_t own(std::int64_t all) const { return sequence_ ? all / size_ : all; }
  // This rank's place in the group: 0 in a run without values, where nothing depends on it.
  int index() const { return index_; }

  // All tokens of `own`, which is this rank's share; returns where they are. Without sequence
  // parallelism they are there already.
  SlotView gather(PassProgram& pass, const SlotView& own, const SlotView& all) const {
    if (!sequence_) return own;
    pass.all_gather(line_, all, own);
    return all;
  }
  // The sum over ranks of `partial`, in its place; or, with sequence parallelism, of this rank's
  // tokens of it in `own`. Returns where the sum is.
  SlotView sum(PassProgram& pass, const SlotView& partial, const SlotView& own) const {
    if (alone()) return partial;
    if (sequence_)
      pass.reduce_scatter(line_, own, partial);
    else
      pass.all_reduce(line_, partial);
    return sequence_ ? own : partial;
  }
  void wait(PassProgram& pass) const {
    if (!alone()) pass.wait();
  }
  const Line& line() const { return line_; }
  const Line& gradients() const { return gradients_; }  // for sums of partial gradients

 private:
  int size_ = 1, index_ = 0;
  bool sequence_ = false;
  Line line_, gradients_;
};

}  // namespace orrery
