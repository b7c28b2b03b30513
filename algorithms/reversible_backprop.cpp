// Backpropagation through a reversible network without kept activations.
//
// Gomez et al. 2017, "The Reversible Residual Network" (arXiv 1707.04585): the activations of a
// reversible block are computed again from its output while the gradient goes back through it. Over
// J stages this is naive model parallelism: one batch is under way, and one stage computes at a
// time (Rivaud et al. 2024, arXiv 2406.02052, table 1, reversible backprop).
//
//   x_j <- F_j(x_{j-1}) for j = 1 … J;   loss
//   for j = J … 1:   x_{j-1} <- F_j^-1(x_j, theta_j);   delta <- (dF_j/dx)^T delta
//   every k batches each stage updates: the next batch's forwards use what the last one's made
//
// Cost, F being a stage's forward and X the elements of a boundary:
//   time            4 F per stage and batch, one stage after the other; 3 F the last of several
//   communication   X up, 2 X down per boundary and batch
//   memory          parameters, gradients and optimizer state; one input for each block that is not
//                   reversible
#include "algorithms/reversible_backprop.hpp"

namespace orrery {

void describe(Fields<ReversibleBackpropOptions>& f) {
  f.section("optimizer", &ReversibleBackpropOptions::optimizer);
}

ReversibleBackprop::ReversibleBackprop(Replica& replica, const ReversibleBackpropOptions&)
    : Petra(replica, DecouplingRules{.stage = {.keep = Keep::nothing}, .synchronous = true}) {}

}  // namespace orrery
