// Gossip that is stopped and goes on in another run: time stands still in between.
#include <doctest/doctest.h>

#include "tests/parity/gossip_run.hpp"
#include "tests/parity/results.hpp"

namespace orrery {
namespace {

// Two workers of one speed, so that chance has no part in who averages when.
AlgorithmCase pair_of(const std::string& options) {
  Quadratic q;
  q.elements = 5;
  q.target = [](int rank, std::size_t j) {
    return static_cast<float>(rank) + 0.1F * static_cast<float>(j);
  };
  q.seconds = {1e-5};
  AlgorithmCase c;
  c.algorithm = "{name: " + options +
                ", exact_rate: true, final_average: false, "
                "optimizer: {name: momentum, lr: 0.1}}";
  c.replicas = 2;
  c.steps = 8;
  c.micro_batches = 1;
  c.model = quadratic(q);
  return c;
}

// The graph of two workers would have no use for it.
const std::string mixing = ", eta: 0.4, alpha_tilde: 0.9";

}  // namespace

// Set-up takes a large part of a gradient here, and twice where there are two runs: mixing that
// counts from when the world began would move x by it.
TEST_CASE("gossip that is stopped after any step and resumed ends in the same bits") {
  for (const std::string& options :
       {"a2cid2" + mixing, "a2cid2, rate: 2" + mixing, "a2cid2, rate: 0.5" + mixing,
        "a2cid2, as_coded: true, rate: 2" + mixing, std::string("ad-psgd")}) {
    const AlgorithmCase whole = pair_of(options);
    const WorldResult at_once = ran(run_in_sim(swift(whole, 1), training_of(whole)));
    for (std::int64_t stop = 2; stop < whole.steps; stop += 2) {
      CAPTURE(options);
      CAPTURE(stop);
      AlgorithmCase first = whole, second = whole;
      first.stop = stop;
      const WorldResult stopped = ran(run_in_sim(swift(first, 1), training_of(first)));
      second.resume = &stopped;
      const WorldResult resumed = ran(run_in_sim(swift(second, 1), training_of(second)));
      for (std::size_t rank = 0; rank < 2; ++rank)
        for (const auto& [name, bytes] : at_once.notes[rank].checkpoints.at(0).fields)
          CHECK_MESSAGE(resumed.notes[rank].checkpoints.at(0).fields.at(name) == bytes,
                        name << " of worker " << rank);
    }
  }
}

}  // namespace orrery
