// An optimizer that is a small network (features.hpp), over a part of the flat weights.
//
// A step is three kernels. The 39 features of a parameter exist while it is worked on, and are
// computed twice: for their root mean squares, and for the network.
//
//   sum g^2 over the rows and over the columns of each matrix            -> a sum over the parts
//   moments and factors; sum x^2 over each tensor, for each feature x    -> a sum over the parts
//   d, s <- network(features over their root mean squares)
//   p <- p - step d exp(exponent s)
//
// Cost, for P parameters in `parts` parts, K workers (lopt-a: 1), L rows and columns of matrices, V
// elements of vectors and T tensors:
//   compute   2 W P / parts FLOPs, W being the multiply-adds of the network
//   memory    (16 P + 12 V) / parts + 12 L bytes
//   sums      4 L and 4 (K + 27) T bytes, where there are several parts
#pragma once

#include <functional>

#include "algorithms/learned/features.hpp"
#include "algorithms/learned/learned_weights.hpp"
#include "algorithms/unit.hpp"

namespace orrery {

class LearnedOptimizer {
 public:
  // In set-up. Part `part` of `parts`: ceil(P / parts) elements, of which the last parts may lack
  // some.
  LearnedOptimizer(Stream& home, std::span<const Parameter> parameters,
                   std::shared_ptr<const LearnedWeights> weights, int part = 0, int parts = 1);
  std::int64_t part_elements() const { return stride_; }
  // Adds a tensor up over the parts, in order of the compute stream.
  using Sum = std::function<void(const Tensor&)>;
  // One step of this part of theta; deltas[workers, part_elements()] are new minus old.
  void update(const Tensor& theta, const Tensor& deltas, const Sum& sum = {});
  // What a rank sends for the sums of one step.
  Bytes sent_in_sums() const;
  void visit(Archive& archive);

 private:
  struct Plan;
  void lay_out(std::span<const Parameter> parameters, Plan& plan) const;
  Tensor zeros(std::int64_t elements, Label label, const char* name) const;
  void prepare();

  Stream& compute_;
  Rank& rank_;
  std::shared_ptr<const Plan> plan_;
  int parts_;
  std::int64_t stride_ = 0, meetings_ = 0;
  Tensor moments_, lines_, vectors_;   // state
  Tensor line_sums_, squares_, time_;  // of a step
  Prepared sum_lines_, accumulate_, step_;
};

}  // namespace orrery
