// What algorithms hold of a model of 7.5e9 parameters on 64 ranks, by the counters of a run, beside
// table 1 of ACCO's paper (arXiv 2406.02613): parameters and gradients of 2 bytes, and 12 bytes of
// optimizer state for each parameter.
#include <doctest/doctest.h>

#include <sstream>

#include "tests/support/algorithm_run.hpp"
#include "tests/support/weights.hpp"

namespace orrery {
namespace {

constexpr std::int64_t psi = 7'500'000'000;
constexpr int divided_ranks = 64;

struct Held {
  double between_steps = 0, peak = 0;  // GB
};

// Two steps of two micro-batches, of one rank for all where that may be.
Held held(const std::string& algorithm, Execution execution = Execution::folded) {
  const std::string text = in_child([&] {
    const AlgorithmPlan plan = plan_of(algorithm);
    const DataAxes axes = plan.divide(divided_ranks);
    WorldOptions world;
    world.grid.set(Axis::shard, axes.shard)
        .set(Axis::replicate, axes.replicate)
        .set(Axis::island, axes.island);
    world.bodies = &cpu_bodies();
    UniformSpec spec;
    spec.gpus = divided_ranks;
    spec.alpha = Time(1'000'000);
    spec.bandwidth = BytesPerSecond(1e18);  // a round takes no longer than its gradients
    const UniformMachine machine(spec);
    SimOptions sim;
    sim.machine = &machine;
    sim.execution = execution;
    std::ostringstream bytes;
    const RunReport report = make_sim_world(world, sim)->run([&](Rank& rank) {
      ReplicaOptions options;
      options.micro_batches = 2;
      options.gradient_dtype = Dtype::bf16;
      options.optimizer = plan.optimizer.options();
      options.keeps_optimizer = !plan.owns_optimizer;
      options.sharding = plan.sharding;
      Replica replica(rank, weights(3, psi / 3, Dtype::bf16), options);
      const std::unique_ptr<Algorithm> made = plan.make(replica);
      Progress progress(rank, {2, 2 * divided_ranks});
      train(*made, progress);
      if (rank.speaks()) bytes << rank.ledger(Place::device).used().value << ' ';
    });
    bytes << report.ranks[0].peak.value << ' ' << report.ranks.distinct();
    return bytes.str();
  });
  std::istringstream bytes(text);
  Held all;
  int simulated = 0;
  bytes >> all.between_steps >> all.peak >> simulated;
  CHECK(simulated == (execution == Execution::folded ? 1 : divided_ranks));
  return {all.between_steps * 1e-9, all.peak * 1e-9};
}

// Counts, norms and the steps of optimizers are some bytes more.
doctest::Approx gigabytes(double value) { return doctest::Approx(value).epsilon(1e-7); }

}  // namespace

TEST_CASE("DDP holds the 120 GB of the paper, ZeRO its 31, 16 and 2 between steps") {
  CHECK(held("{name: ddp}").between_steps == gigabytes(120));
  CHECK(held("{name: zero, stage: 1}").between_steps == gigabytes(31.40625));
  CHECK(held("{name: zero, stage: 2}").between_steps == gigabytes(16.640625));
  CHECK(held("{name: zero, stage: 3}").between_steps == gigabytes(1.875));
}

// The paper counts (6 + 12/N) Psi, 46.4 GB. Beside that a rank has its shard of the summed gradient
// and of the new parameters, of 2 bytes each, and while it estimates, what was before the estimate.
TEST_CASE(
    "ACCO and weight prediction hold the 46 GB of the paper and a shard of two vectors more") {
  const double paper = (6 + 12.0 / divided_ranks) * 7.5;
  for (const char* algorithm : {"{name: acco}", "{name: weight-prediction}", "{name: dpu}"}) {
    CAPTURE(std::string(algorithm));
    const bool estimates = std::string(algorithm) != "{name: dpu}";
    const Held all = held(algorithm, Execution::unfolded);  // it polls
    CHECK(all.between_steps == gigabytes(paper + 4.0 / divided_ranks * 7.5));
    CHECK(all.peak == gigabytes(paper + (estimates ? 16.0 : 4.0) / divided_ranks * 7.5));
  }
}

// The paper counts 20 bytes for each parameter, 150 GB. Here the outer parameters and their
// momentum are 4 bytes each, which makes 24.
TEST_CASE("DiLoCo and SlowMo hold 180 GB, 30 more than the paper counts") {
  CHECK(held("{name: diloco, inner_steps: 1}").between_steps == gigabytes(180));
  CHECK(held("{name: slowmo, inner_steps: 1}").between_steps == gigabytes(180));
}

}  // namespace orrery
