// A single replica: nobody to agree with.
//
//   for each micro-batch k:    accumulate grad of loss(theta; batch_k) into g
//   g <- g min(1, c / |g|);    theta <- optimizer(theta, g)
//
// Cost:
//   communication   none across replicas; over c ranks that share its sequences their gradients are
//                   averaged, in one all-reduce of P bytes: 2 (c-1)/c P per rank and step
//   memory          parameters, gradients and optimizer state
#include "algorithms/none.hpp"

namespace orrery {

void describe(Fields<NoneOptions>& f) {
  f.section("optimizer", &NoneOptions::optimizer);
  f.field("clip_norm", &NoneOptions::clip_norm)
      .positive()
      .doc("largest norm of the gradient; absent: not clipped");
}

None::None(Replica& replica, const NoneOptions& options)
    : replica_(replica), options_(options), context_(replica) {}

StepEnd None::issue(Progress& progress) {
  replica_.accumulate_gradients(progress);
  context_.take();
  const Tensor scale =
      options_.clip_norm ? replica_.clip_scale(replica_.compute(), *options_.clip_norm) : Tensor();
  replica_.optimizer_step(replica_.compute(), replica_.parameters(), scale);
  return {replica_.compute().record(), replica_.loss()};
}

}  // namespace orrery
