// A2CiD2: asynchronous training over a graph, its gossip accelerated by a continuous momentum.
//
// Nabli, Belilovsky and Oyallon, "A2CiD2: Accelerating Asynchronous Communication in Decentralized
// Deep Learning", NeurIPS 2023 (arXiv 2306.08289). Worker i computes gradients at the times of
// N_i, about one per unit of time; the edge (i, j) averages at the times of M_ij. x~ is the
// companion of x, eta pulls them together:
//
//   dx_i  = eta (x~_i - x_i) dt - gamma g_i dN_i - alpha  sum over j of (x_i - x_j) dM_ij
//   dx~_i = eta (x_i - x~_i) dt - gamma g_i dN_i - alpha~ sum over j of (x_i - x_j) dM_ij
//
//   eta = 1 / (2 sqrt(chi1 chi2));   alpha = 1/2;   alpha~ = 1/2 sqrt(chi1 / chi2)
//
// with chi1, chi2 of the graph (gossip/graph.hpp). Between two events at a worker, dt apart, x and
// x~ are mixed by e^(-2 eta dt), exactly and only then. Held here as x and y = x~ - x:
//
//   mix:        x += (1 - e^(-2 eta dt)) / 2 y;   y *= e^(-2 eta dt)
//   gradient:   mix;   x <- optimizer(x, g)                    x~ steps with it, so y stays
//   averaging:  mix;   d = x_j - x_i;   x += d / 2;   y += (alpha~ - 1/2) d
//
// Cost: that of gossip/gossip.hpp; in memory 4 P bytes more, of y.
#include "algorithms/a2cid2.hpp"

#include <cmath>

namespace orrery {

void describe(Fields<A2cid2Options>& f) {
  describe_gossip(f);
  f.field("as_coded", &A2cid2Options::as_coded)
      .doc("send x without mixing it first, and approach from where x is when the partner's comes");
  f.field("eta", &A2cid2Options::eta).at_least(0).doc("absent: by the graph");
  f.field("alpha_tilde", &A2cid2Options::alpha_tilde).at_least(0).doc("absent: by the graph");
}

A2cid2::A2cid2(Replica& replica, const A2cid2Options& options, const Graph& graph)
    : Gossip(replica, options), as_coded_(options.as_coded) {
  const double chi1 = graph.connectivity().chi1 / options.rate,
               chi2 = graph.connectivity().chi2 / options.rate;
  const bool alone = graph.workers() == 1;
  eta_ = options.eta.value_or(alone ? 0 : 1 / (2 * std::sqrt(chi1 * chi2)));
  alpha_tilde_ = options.alpha_tilde.value_or(alone ? 0.5 : 0.5 * std::sqrt(chi1 / chi2));
  Stream& compute = replica.compute();
  y_ = rank_.allocate(compute, Label::optimizer, x().elements(), Dtype::fp32,
                      {.name = "a2cid2.companion"});
  compute.launch(rank_.prepare(Kernel::fill(x().elements(), 0, Dtype::fp32)), {y_});
  const auto scalar = [&](const char* name) {
    return rank_.allocate(compute, Label::workspace, 1, Dtype::fp32,
                          {.values = Values::always, .name = name});
  };
  share_ = scalar("a2cid2.share");
  decay_ = scalar("a2cid2.decay");
}

void A2cid2::move_to_now(Stream& stream) {
  if (eta_ == 0) return;
  const double decay = std::exp(-2 * eta_ * elapsed());
  stream.upload(share_, {(1 - decay) / 2});
  stream.upload(decay_, {decay});
  stream.launch(combination(1, 1, true), {y_, x(), share_, {}});
  stream.launch(combination(0, 1, true), {y_, y_, {}, decay_});
}

void A2cid2::approach(Stream& stream, const Tensor& difference) {
  stream.launch(combination(0.5, 1), {difference, x()});
  stream.launch(combination(alpha_tilde_ - 0.5, 1), {difference, y_});
}

void A2cid2::visit_companion(Archive& archive) { archive.field("companion", y_); }

}  // namespace orrery

// Differences from the paper: time runs in units of what a gradient takes, a moving average, as in
// the authors' code (AdelNabli/ACiD). Gradients are computed at a copy of x, where the code's read
// what an averaging may be writing (`racy_reads`). What is sent is mixed first and both partners
// use the same difference, so that an averaging keeps their mean; the code's does not (`as_coded`).
// Any optimizer may step x, and x~ with it. All workers start from the same values, so there is no
// averaging of all at the start.
