// DiLoCo: distributed low-communication training of language models.
//
// Douillard et al., "DiLoCo: Distributed Low-Communication Training of Language Models", 2023
// (arXiv 2311.08105), algorithm 1, on k workers:
//
//   for outer step t = 1 ... T:
//     theta_i <- theta                                     on every worker i
//     for inner step h = 1 ... H:    theta_i <- InnerOpt(theta_i, grad f(theta_i; batch))
//     Delta <- 1/k sum over workers i of (theta - theta_i)           outer gradient
//     theta <- OuterOpt(theta, Delta)                       Nesterov: v <- mu v + Delta
//                                                           theta <- theta - lr (Delta + mu v)
//
// Cost, for P parameters of a rank and k workers:
//   communication   one all-reduce of 4 P bytes every H steps: 2 (k-1)/k 4 P / H bytes per rank and
//                   step, exposed; with a codec of b bytes 2 (k-1)/k b P / H; where workers
//                   join, a broadcast of 8 P bytes besides: (k-1)/k 8 P
//   memory          8 P bytes beside the inner algorithm's: theta and v; 4 P more where outer
//                   gradients get lost
#include "algorithms/diloco.hpp"

#include <algorithm>

namespace orrery {

void describe(Fields<DilocoOptions>& f) {
  describe_diloco(f);
  f.field("drop", &DilocoOptions::drop)
      .between(0, 1)
      .doc("probability that a worker's outer gradient gets lost");
  describe_membership(f);
}

OptimizerOptions outer_optimizer(const DilocoOptions& options) {
  return {.name = options.outer_momentum > 0 ? "momentum" : "sgd",
          .lr = options.outer_lr,
          .momentum = options.outer_momentum,
          .weight_decay = 0,
          .nesterov = options.nesterov};
}

Diloco::Diloco(Replica& replica, std::unique_ptr<Algorithm> inner, const DilocoOptions& options)
    : Islands(replica, std::move(inner), options, replica.flat().weights().elements()),
      options_(options),
      theta_(copy_of_weights("outer.parameters")),
      outer_(make_optimizer(outer_optimizer(options), rank_, compute(), theta_.elements(),
                            Dtype::fp32)) {
  if (options.drop == 0) return;
  kept_ = copy_of_weights("outer.kept");
  share_ = rank_.allocate(compute(), Label::workspace, 1, Dtype::fp32,
                          {.values = Values::always, .name = "outer.share"});
}

// Whether an island's outer gradient arrives, by the same draws on all workers.
bool Diloco::arrives(std::int64_t meeting, int island) const {
  const auto draw = static_cast<std::uint64_t>(meeting * rank_.size(Axis::island) + island);
  return rank_.shared_rng(Purpose::order).uniform(draw) >= options_.drop;
}

void Diloco::inner_step_issued(std::int64_t t) {
  if (t % options_.inner_steps != 0) return;
  const Tensor theta_i = weights();
  const std::int64_t meeting = t / options_.inner_steps;
  const bool mine = options_.drop == 0 || arrives(meeting, rank_.coordinate(Axis::island));
  if (mine) {
    subtract_from(theta_, theta_i);  // Delta, where theta_i was
  } else {
    compute().copy(theta_i, kept_);
    compute().launch(rank_.prepare(Kernel::fill(theta_i.elements(), 0, Dtype::fp32)), {theta_i});
  }
  compute().after(mean(theta_i));
  if (outer_gradients_arrived(meeting)) {
    outer_->begin_step(compute());
    outer_->update(compute(), theta_, theta_i, 0, {}, share_);
  }
  compute().copy(mine ? theta_ : kept_, theta_i);
  weights_changed();
}

// Whether there are any; what their mean is of those that met goes into share_.
bool Diloco::outer_gradients_arrived(std::int64_t meeting) {
  if (options_.drop == 0) return true;
  const std::vector<int> met = that_meet();
  const auto arrived =
      std::ranges::count_if(met, [&](int island) { return arrives(meeting, island); });
  if (arrived > 0)
    compute().upload(share_, {static_cast<double>(met.size()) / static_cast<double>(arrived)});
  return arrived > 0;
}

void Diloco::visit(Archive& archive) {
  Islands::visit(archive);
  visit_common(archive);
}

void Diloco::visit_common(Archive& archive) {
  const Archive::Scope scope(archive, "outer");
  archive.field("parameters", theta_);
  outer_->visit(archive);
}

void Diloco::has_joined() {
  compute().copy(theta_, weights());
  weights_changed();
}

Bytes Diloco::sent_in_meetings(std::int64_t steps) const {
  return sent_in_meeting() * (steps / options_.inner_steps);
}

}  // namespace orrery

// Differences from the paper: a worker may be several replicas, trained by an inner algorithm;
// workers have equal weights (the paper also weighs by the size of a worker's data); outer
// gradients are not pruned. With `drop`, one that gets lost is left out of the mean, and its worker
// goes on from its own parameters, though it hears of the outer step of the others. Where nobody's
// arrives there is no outer step, of its momentum neither. With `members`, workers come, leave and
// die: the mean is over those that are there, and one that joins begins with theta, v (algorithm 1
// has one outer optimizer for all) and an inner optimizer that has not stepped. With a `quorum` it
// is over those that come in time; who comes late goes on from theta, v behind the next meeting,
// with its own inner optimizer.
