// Decoupled greedy learning: every stage has a loss of its own. See dgl.cpp.
#pragma once

#include "algorithms/petra.hpp"

namespace orrery {

struct DglOptions {
  OptimizerSpec optimizer;
};
void describe(Fields<DglOptions>& f);

// Puts a head behind each stage but the last, which keeps its own. Before the replica is made.
// Error{config} for a model that says no heads.
void add_local_heads(Model& model, ReplicaOptions& options, int stages);

class Dgl : public Petra {
 public:
  Dgl(Replica& replica, const DglOptions& options);
};

}  // namespace orrery
