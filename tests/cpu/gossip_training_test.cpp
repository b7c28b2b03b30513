// Gossip as algorithms on this machine's threads, gradients reading what averagings write; under
// the thread sanitizer too, where copies of racy operands are all that is not watched.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/support/quadratic.hpp"

using namespace orrery;

namespace {

void train_for_seeds(int first, int last) {
  static const std::string racy = ", racy_reads: true", sgd = ", optimizer: {name: sgd, lr: 0.1}";
  static const std::string algorithms[] = {
      "a2cid2, graph: ring" + racy + sgd,
      "ad-psgd, graph: complete" + racy + sgd,
      "a2cid2, graph: exponential, rate: 2.5" + racy + sgd,
      "a2cid2, graph: torus, rate: 0.4, as_coded: true" + racy + sgd,
      "a2cid2, graph: ring, pairing: poisson" + racy + sgd,
      "dadao, graph: ring, mu: 1, smoothness: 4",
      "sgp" + sgd,
      "overlap-sgp, graph: ring, overlap: 2" + sgd};
  for (int ranks = first; ranks <= last; ++ranks)
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
      CAPTURE(ranks);
      CAPTURE(seed);
      Quadratic q;
      q.elements = 5;
      q.target = [](int rank, std::size_t) { return static_cast<float>(rank); };
      AlgorithmCase c;
      c.algorithm = "{name: " + algorithms[(seed + static_cast<std::uint64_t>(ranks)) % 8] + "}";
      c.replicas = ranks;
      c.steps = 4;
      c.micro_batches = 1;
      c.model = quadratic(q);
      WorldSetup setup = setup_of(c);
      setup.options.seed = seed;
      const WorldResult result = run_in_cpu(setup, training_of(c));
      REQUIRE_MESSAGE(!result.error, why(result));
      for (std::size_t rank = 0; rank < static_cast<std::size_t>(ranks); ++rank) {
        REQUIRE(sent(result, rank) == sent_by_cost_block(result, rank));
        const std::vector<float> x = state_of(result, rank, "replica.parameters");
        REQUIRE(x == state_of(result, 0, "replica.parameters"));  // all have their mean
        for (const float each : x) REQUIRE(std::isfinite(each));
      }
    }
}

}  // namespace

TEST_CASE("training by gossip with racing reads ends on 1 to 5 workers and leaves no message") {
  train_for_seeds(1, 5);
}
TEST_CASE("training by gossip with racing reads ends on 6 to 9 workers and leaves no message") {
  train_for_seeds(6, 9);
}
