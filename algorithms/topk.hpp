// Top-k sparsification with error feedback. See topk.cpp.
#pragma once

#include "algorithms/compressed_gradients.hpp"

namespace orrery {

struct TopKOptions {
  OptimizerSpec optimizer;
  double ratio = 0.01;  // k / P
  bool error_feedback = true;
};
void describe(Fields<TopKOptions>& f);

class TopK : public CompressedGradients {
 public:
  TopK(Replica& replica, const TopKOptions& options);
  std::optional<Bytes> sent(std::int64_t steps) const override;
  void visit(Archive& archive) override;

 private:
  void synchronise(const Tensor& gradient, std::int64_t step) override;
  GatheredMean mean_;
  Tensor error_;  // e, empty without error feedback
  Prepared select_;
};

}  // namespace orrery
