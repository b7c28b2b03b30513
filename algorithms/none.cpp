// A single replica: nobody to agree with.
//
//   for each micro-batch k:    accumulate grad of loss(theta; batch_k) into g
//   g <- g min(1, c / |g|);    theta <- optimizer(theta, g)
//
// Cost:
//   communication   none across replicas
//   memory          parameters, gradients and optimizer state
#include "algorithms/none.hpp"

namespace orrery {

void describe(Fields<NoneOptions>& f) {
  f.section("optimizer", &NoneOptions::optimizer);
  f.field("clip_norm", &NoneOptions::clip_norm)
      .positive()
      .doc("largest norm of the gradient; absent: not clipped");
}

StepEnd None::issue(Progress& progress) {
  replica_.accumulate_gradients(progress);
  const Tensor scale =
      options_.clip_norm ? replica_.clip_scale(replica_.compute(), *options_.clip_norm) : Tensor();
  replica_.optimizer_step(replica_.compute(), replica_.parameters(), scale);
  return {replica_.compute().record(), replica_.loss()};
}

}  // namespace orrery
