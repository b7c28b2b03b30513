// AD-PSGD: asynchronous decentralized parallel stochastic gradient descent.
//
// Lian, Zhang, Zhang and Liu, "Asynchronous Decentralized Parallel Stochastic Gradient Descent",
// ICML 2018 (arXiv 1710.06952), algorithm 1. Every worker i, without waiting for any other's
// gradient:
//
//   g_i <- gradient at x^_i, a copy of x_i as it was when the computation began
//   meanwhile, with a random neighbour j:   x_i, x_j <- (x_i + x_j) / 2
//   x_i <- x_i - gamma g_i
//
// Cost: that of gossip/gossip.hpp.
#include "algorithms/ad_psgd.hpp"

namespace orrery {

void describe(Fields<AdPsgdOptions>& f) { describe_gossip(f); }

void AdPsgd::approach(Stream& stream, const Tensor& difference) {
  stream.launch(combination(0.5, 1), {difference, x()});
}

}  // namespace orrery

// Differences from the paper: a matchmaker pairs workers that are ready, so the graph need not be
// bipartite with active and passive workers to be free of deadlocks. A gradient that ends while an
// averaging is under way is applied to x at once, and the averaging moves x by half of the
// difference that it began with. A worker makes `rate` averagings per gradient on average.
