// LOpt-A: local SGD whose averages are taken further by a learned optimizer.
//
// Joseph, Therien, Moudgil, Knyazev and Belilovsky, "Can We Learn Communication-Efficient
// Optimizers?", 2023 (arXiv 2312.02204), section 4, on K workers:
//
//   for t = 0, 1, ...:
//     theta_k <- theta                                     on every worker k
//     for h = 1 ... H:        theta_k <- inner optimizer's step
//     Delta <- 1/K sum over workers k of (theta_k - theta)
//     d, s <- network(features(Delta, theta, what it keeps of earlier Deltas, t))   per parameter
//     theta <- theta - 0.001 d exp(0.001 s)
//
// The network and its features are those of learned/; the direction of descent is learned too.
// Under the mu parametrisation (arXiv 2406.00153) steps of hidden matrices are divided by their
// fan-in.
//
// Cost, for P parameters that a rank steps, V of them in vectors, L rows and columns of matrices, T
// tensors, W weights of the network, and n ranks of a worker that have parts of the same tensors:
//   communication   one all-reduce of 4 P bytes every H steps: 2 (K-1)/K 4 P / H bytes per rank and
//                   step, exposed; fewer with a codec; and all-reduces over the n ranks of 4 L and
//                   112 T bytes: 2 (n-1)/n (4 L + 112 T) / H
//   compute         2 W P FLOPs every H steps, on each rank
//   memory          20 P + 12 V + 12 L bytes beside the inner algorithm's: theta, three momenta and
//                   second moments
#include "algorithms/lopt_a.hpp"

#include <fmt/format.h>

namespace orrery {

void describe(Fields<LoptAOptions>& f) { describe_learned(f); }

void LoptAOptions::check_workers(int) const {
  if (loaded != nullptr && loaded->workers > 1)
    throw Error(Category::config,
                fmt::format("{} is of lagg-a with {} workers", weights, loaded->workers));
}

LoptA::LoptA(Replica& replica, std::unique_ptr<Algorithm> inner, const LoptAOptions& options)
    : Islands(replica, std::move(inner), options, replica.flat().weights().elements()),
      options_(options),
      theta_(copy_of_weights("learned.parameters")),
      learned_(compute(), replica.flat(), options.loaded) {}

void LoptA::inner_step_issued(std::int64_t t) {
  if (t % options_.inner_steps != 0) return;
  const Tensor x = weights();
  take_change(theta_, x);  // Delta_k, where theta_k was
  compute().after(mean(x));
  learned_.update(theta_, x);
  compute().copy(theta_, x);
  weights_changed();
}

void LoptA::visit(Archive& archive) {
  Islands::visit(archive);
  archive.field("learned.parameters", theta_);
  learned_.visit(archive);
}

Bytes LoptA::sent_in_meetings(std::int64_t steps) const {
  return (sent_in_meeting() + learned_.sent_in_sums()) * (steps / options_.inner_steps);
}

}  // namespace orrery

// Differences from the paper: workers may be several replicas and have any inner algorithm (the
// paper: SGD); the network's weights must come from a file, and none that were trained are here.
