// Backpropagation through stages that keep nothing. See reversible_backprop.cpp.
#pragma once

#include "algorithms/petra.hpp"

namespace orrery {

struct ReversibleBackpropOptions {
  OptimizerSpec optimizer;
};
void describe(Fields<ReversibleBackpropOptions>& f);

class ReversibleBackprop : public Petra {
 public:
  ReversibleBackprop(Replica& replica, const ReversibleBackpropOptions& options);
};

}  // namespace orrery
