// Weight prediction: delayed updates, with gradients at predicted parameters. See
// weight_prediction.cpp.
#pragma once

#include "algorithms/decoupled.hpp"

namespace orrery {

class WeightPrediction : public Decoupled {
 public:
  WeightPrediction(Replica& replica, const DecoupledOptions& options);
  StepEnd issue(Progress& progress) override;
  std::optional<Bytes> sent(std::int64_t steps) const override { return sent_in(steps); }
};

}  // namespace orrery
