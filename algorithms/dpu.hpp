// Delayed parameter updates. See dpu.cpp.
#pragma once

#include "algorithms/decoupled.hpp"

namespace orrery {

class Dpu : public Decoupled {
 public:
  Dpu(Replica& replica, const DecoupledOptions& options);
  StepEnd issue(Progress& progress) override;
  std::optional<Bytes> sent(std::int64_t steps) const override { return sent_in(steps); }
};

}  // namespace orrery
