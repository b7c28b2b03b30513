// SlowMo: slow momentum over workers that average now and then.
//
// Wang, Tantia, Ballas and Rabbat, "SlowMo: Improving Communication-Efficient Distributed SGD with
// Slow Momentum", ICLR 2020 (arXiv 1910.06643), algorithm 1. In outer iteration t, from x_{t,0}:
//
//   for k = 0 ... H-1, on every worker i:    x_i <- base optimizer's step with rate gamma_t
//   x_{t,H} <- 1/n sum over workers i of x_i                        exact average
//   u_{t+1} <- beta u_t + (x_{t,0} - x_{t,H}) / gamma_t             slow momentum
//   x_{t+1,0} <- x_{t,0} - alpha gamma_t u_{t+1}                    slow step
//
// Cost, for P parameters of a rank and n workers:
//   communication   one all-reduce of 4 P bytes every H steps: 2 (n-1)/n 4 P / H bytes per rank and
//                   step, exposed; fewer with a codec; where workers join, a
//                   broadcast of 8 P bytes besides: (n-1)/n 8 P
//   memory          8 P bytes beside the inner algorithm's: x_{t,0} and u
#include "algorithms/slowmo.hpp"

namespace orrery {

void describe(Fields<SlowMoOptions>& f) {
  describe_islands(f);
  f.field("slow_lr", &SlowMoOptions::slow_lr).positive().doc("alpha");
  f.field("slow_momentum", &SlowMoOptions::slow_momentum).between(0, 1).doc("beta");
  describe_membership(f);
}

SlowMo::SlowMo(Replica& replica, std::unique_ptr<Algorithm> inner, const SlowMoOptions& options)
    : Islands(replica, std::move(inner), options, replica.flat().weights().elements()),
      options_(options),
      start_(copy_of_weights("slowmo.start")),
      inverse_rate_(rank_.allocate(compute(), Label::workspace, 1, Dtype::fp32,
                                   {.values = Values::always, .name = "slowmo.inverse_rate"})) {
  // Momentum on (x_{t,0} - x_{t,H}) / gamma_t, stepped by alpha gamma_t.
  OptimizerOptions slow = replica.options().optimizer;
  slow = {.name = "momentum",
          .lr = options.slow_lr * slow.lr,
          .momentum = options.slow_momentum,
          .weight_decay = 0,
          .warmup = (slow.warmup + options.inner_steps - 1) / options.inner_steps,
          .cosine = slow.cosine / options.inner_steps};
  momentum_ = make_optimizer(slow, rank_, compute(), start_.elements(), Dtype::fp32);
}

void SlowMo::inner_step_issued(std::int64_t t) {
  if (t % options_.inner_steps != 0) return;
  const Tensor x = weights();
  subtract_from(start_, x);  // x_{t,0} - x_i
  compute().after(mean(x));
  momentum_->begin_step(compute());
  const double rate = momentum_->rate();  // alpha gamma_t
  compute().upload(inverse_rate_, {rate > 0 ? options_.slow_lr / rate : 0});
  momentum_->update(compute(), start_, x, 0, {}, inverse_rate_);
  compute().copy(start_, x);
  weights_changed();
}

void SlowMo::visit(Archive& archive) {
  Islands::visit(archive);
  visit_common(archive);
}

void SlowMo::visit_common(Archive& archive) {
  const Archive::Scope scope(archive, "slowmo");
  archive.field("start", start_);
  momentum_->visit(archive);
}

void SlowMo::has_joined() {
  compute().copy(start_, weights());
  weights_changed();
}

Bytes SlowMo::sent_in_meetings(std::int64_t steps) const {
  return sent_in_meeting() * (steps / options_.inner_steps);
}

}  // namespace orrery

// Differences from the paper: gamma_t is the base optimizer's rate at the end of an outer
// iteration, for all of its steps; the base optimizer's buffers are kept (the paper's "maintain"),
// neither reset nor averaged. With `members` and a `quorum` the average is over those that are
// there, or came in time; one that joins or was late begins with x_{t,0} and u.
