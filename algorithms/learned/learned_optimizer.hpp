// An optimizer that is a small network (features.hpp), over a part of the weights of a replica.
//
// A step is three kernels. The 39 features of a parameter exist while it is worked on, and are
// computed twice: for their root mean squares, and for the network. Whoever has parts of a tensor
// adds up with the others what is over the whole of it.
//
//   sum g^2 over the rows and over the columns of each matrix            -> a sum over the ranks
//   moments and factors; sum x^2 over each tensor, for each feature x    -> a sum over the ranks
//   d, s <- network(features over their root mean squares)
//   p <- p - step d exp(exponent s)
//
// The ranks are those that divide layers or experts, those that divide a worker's weights, and the
// workers, where each steps a part. What several of them have alike, each counts a fraction of.
//
// Cost, for P weights of a rank in `parts` parts, K workers (lopt-a: 1), L rows and columns of
// whole matrices, V elements of vectors among the weights and T tensors:
//   compute   2 W P / parts FLOPs, W being the multiply-adds of the network
//   memory    (16 P + 12 V) / parts + 12 L bytes
//   sums      4 L and 4 (K + 27) T bytes, where there are several ranks
#pragma once

#include "algorithms/flat_parameters.hpp"
#include "algorithms/learned/features.hpp"
#include "algorithms/learned/learned_weights.hpp"

namespace orrery {

class LearnedOptimizer {
 public:
  // In set-up. This rank steps FlatParameters::weights, or with several parts, one for each island,
  // ceil(P / parts) of them, of which the last islands' may lack some.
  LearnedOptimizer(Stream& home, const FlatParameters& flat,
                   std::shared_ptr<const LearnedWeights> weights, int parts = 1);
  std::int64_t part_elements() const { return stride_; }
  // One step of this part of theta; deltas[workers, part_elements()] are new minus old.
  void update(const Tensor& theta, const Tensor& deltas);
  // What a rank sends for the sums of one step.
  Bytes sent_in_sums() const;
  void visit(Archive& archive);

 private:
  struct Plan;
  void lay_out(const FlatParameters& flat, int parts, Plan& plan) const;
  void allocate();
  Tensor zeros(std::int64_t elements, Label label, const char* name) const;
  void prepare();
  void add_up(const Tensor& sums) const;

  Stream& compute_;
  Rank& rank_;
  Axes over_;                // whose ranks have parts of the tensors
  Channel* sums_ = nullptr;  // over these, and its stream; null: this rank has all
  Stream* communication_ = nullptr;
  std::shared_ptr<const Plan> plan_;
  std::int64_t stride_ = 0, meetings_ = 0;
  Tensor moments_, lines_, vectors_;   // state
  Tensor line_sums_, squares_, time_;  // of a step
  Prepared sum_lines_, accumulate_, step_;
};

}  // namespace orrery
