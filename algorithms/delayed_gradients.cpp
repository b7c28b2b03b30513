// Stages that go on with delayed gradients, with or without stashes.
//
// The family that PETRA belongs to (Rivaud et al. 2024, arXiv 2406.02052, table 1): batches go up
// and come down through the stages as there (petra.cpp), and what a stage keeps of those under way
// is a choice:
//   keep graph, versions        what PipeDream keeps (Harlap et al. 2018, arXiv 1806.03377): each
//                               backward is that of its own forward
//   keep inputs, no versions    checkpoints: the forward is computed again, with the parameters of
//                               the backward (Xu et al. 2020, DSP, "On the Acceleration of Deep
//                               Learning Model Parallelism with Staleness")
//   keep nothing, no versions   PETRA
//
//   forward of batch n:   x_j <- F_j(x_{j-1}, theta_j);   keep graph or input;  keep theta_j
//   backward of batch n:  delta <- (dF_j/dx)^T delta, at what was kept
//                         every k-th: theta_j <- optimizer(theta_j, Delta)
//
// Cost of stage j of J, F being its forward and X a boundary, per batch:
//   time            F + 2 F, and F more where the graph is not kept; with two engines 2 F or 3 F
//   communication   X up, X down; 2 X down where nothing is kept
//   memory          up to 2 (J - j) + 1 batches' graphs or inputs, and ceil(2 (J - j) / k) older
//                   versions of the parameters
#include "algorithms/delayed_gradients.hpp"

namespace orrery {

void describe(Fields<DelayedGradientsOptions>& f) {
  f.section("optimizer", &DelayedGradientsOptions::optimizer);
  f.field("keep", &DelayedGradientsOptions::keep)
      .one_of({"graph", "inputs", "nothing"})
      .doc("of each batch under way; nothing: blocks that are not reversible keep their inputs");
  f.field("versions", &DelayedGradientsOptions::versions)
      .doc("a backward uses the parameters of its forward, not the current ones");
  f.field("engines", &DelayedGradientsOptions::engines)
      .between(1, 2)
      .doc("2: forwards run beside backwards, on a stream of their own");
}

namespace {

Keep keep_of(const std::string& name) {
  return name == "graph" ? Keep::graph : name == "inputs" ? Keep::inputs : Keep::nothing;
}

}  // namespace

DelayedGradients::DelayedGradients(Replica& replica, const DelayedGradientsOptions& options)
    : Petra(replica,
            DecouplingRules{.stage = {.keep = keep_of(options.keep), .versions = options.versions},
                            .two_engines = options.engines == 2}) {}

}  // namespace orrery
