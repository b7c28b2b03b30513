// Stages that go on with delayed gradients. See delayed_gradients.cpp.
#pragma once

#include <string>

#include "algorithms/petra.hpp"

namespace orrery {

struct DelayedGradientsOptions {
  OptimizerSpec optimizer;
  std::string keep = "graph";
  bool versions = true;
  std::int64_t engines = 1;
};
void describe(Fields<DelayedGradientsOptions>& f);

class DelayedGradients : public Petra {
 public:
  DelayedGradients(Replica& replica, const DelayedGradientsOptions& options);
};

}  // namespace orrery
