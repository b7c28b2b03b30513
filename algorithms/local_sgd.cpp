// Local SGD, or periodic averaging.
//
// Stich, "Local SGD Converges Fast and Communicates Little", ICLR 2019 (arXiv 1805.09767),
// algorithm 1, with synchronisation steps every H:
//
//   for t = 1, 2, ..., on every worker i:
//     x_i <- x_i - gamma grad f(x_i; batch)              the inner algorithm's step
//     if t mod H = 0:    x_i <- 1/n sum over workers j of x_j
//
// Cost, for P parameters of a rank and n workers:
//   communication   one all-reduce of 4 P bytes every H steps: 2 (n-1)/n 4 P / H bytes per rank and
//                   step, exposed; fewer with a codec
//   memory          none beside the inner algorithm's
#include "algorithms/local_sgd.hpp"

namespace orrery {

void describe(Fields<LocalSgdOptions>& f) {
  describe_islands(f);
  describe_membership(f);
}

LocalSgd::LocalSgd(Replica& replica, std::unique_ptr<Algorithm> inner,
                   const LocalSgdOptions& options)
    : Islands(replica, std::move(inner), options, replica.flat().weights().elements()),
      options_(options) {}

void LocalSgd::inner_step_issued(std::int64_t t) {
  if (t % options_.inner_steps != 0) return;
  const Tensor x = weights();
  compute().after(mean(x));
  weights_changed();
}

void LocalSgd::visit_common(Archive& archive) {
  Tensor x = weights();
  archive.field("parameters", x);
}

void LocalSgd::has_joined() { weights_changed(); }

Bytes LocalSgd::sent_in_meetings(std::int64_t steps) const {
  return sent_in_meeting() * (steps / options_.inner_steps);
}

}  // namespace orrery

// Differences from the paper: any inner optimizer may take the local steps, and its moments stay
// local; a worker may be several replicas. Workers take equally many steps, so the mean has equal
// weights. With `members` and a `quorum` it is over those that are there, or came in time.
