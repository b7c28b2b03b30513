// ACCO: accumulate while you communicate. See acco.cpp.
#pragma once

#include "algorithms/decoupled.hpp"

namespace orrery {

class Acco : public Decoupled {
 public:
  Acco(Replica& replica, const DecoupledOptions& options);
  StepEnd issue(Progress& progress) override;
  std::optional<Bytes> sent(std::int64_t steps) const override { return sent_in(2 * steps); }
};

}  // namespace orrery
