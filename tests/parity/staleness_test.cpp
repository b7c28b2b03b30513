// How late gradients are applied, counted in runs: none under algorithms that wait, one update
// under delayed ones, as many as a pipeline or a neighbour makes meanwhile.
#include <doctest/doctest.h>

#include "tests/support/quadratic.hpp"
#include "tests/support/stage_run.hpp"

namespace orrery {
namespace {

template <class Case>
WorldResult simulated(const Case& c, const WorldSetup& setup) {
  WorldResult result = run_in_sim(setup, training_of(c));
  REQUIRE_MESSAGE(!result.error, why(result));
  return result;
}

// Two micro-batches a step and worker, all of a speed, over links that are quick.
AlgorithmCase quick(const std::string& algorithm, std::int64_t steps) {
  AlgorithmCase c;
  c.algorithm = algorithm;
  c.steps = steps;
  c.model = quadratic({});
  return c;
}

Lateness lateness(const std::string& algorithm, std::int64_t steps = 12) {
  const AlgorithmCase c = quick(algorithm, steps);
  return staleness_of(simulated(c, setup_of(c)), 0);
}

Lateness of_stage(const std::string& algorithm, const std::string& schedule, std::size_t stage,
                  int micro_batches) {
  Adders a;
  a.has_parameters.assign(4, true);
  StageCase c;
  c.algorithm = algorithm;
  c.schedule = schedule;
  c.micro_batches = micro_batches;
  c.model = adders(a);
  return staleness_of(simulated(c, setup_of(c)), stage);
}

}  // namespace

TEST_CASE("no gradient is late where an update waits for the gradients of its own parameters") {
  for (const char* algorithm :
       {"{name: ddp}", "{name: zero}", "{name: zero, stage: 2}", "{name: fsdp}",
        "{name: local-sgd, inner_steps: 3}", "{name: diloco, inner_steps: 3}",
        "{name: streaming-diloco, inner_steps: 4, overlap: 2}", "{name: sgp}",
        "{name: overlap-sgp, overlap: 2}", "{name: qsgd, bucket: 4}",
        "{name: onebit-adam, freeze_step: 3, optimizer: {epsilon: 0.01}}"}) {
    CAPTURE(std::string(algorithm));
    CHECK(lateness(algorithm) == Lateness{{"made 0", 24}});
  }
}

TEST_CASE("delayed updates apply every gradient but the first ones an update late") {
  CHECK(lateness("{name: dpu}") == Lateness{{"made 0", 2}, {"made 1", 22}});
}

TEST_CASE("ACCO applies none late; half are computed with a prediction of what they change") {
  CHECK(lateness("{name: acco}") == Lateness{{"made 0", 13}, {"predicted 0", 11}});
}

TEST_CASE("weight prediction applies none late once its first prediction is there") {
  CHECK(lateness("{name: weight-prediction, optimizer: {name: momentum, lr: 0.1}}") ==
        Lateness{{"made 0", 2}, {"made 1", 2}, {"predicted 0", 20}});
}

TEST_CASE("a link that is slow makes ACCO's batches larger, not staler") {
  AlgorithmCase c = quick("{name: acco, optimizer: {name: sgd, lr: 0.1}}", 6);
  Quadratic q;
  q.elements = 4000;
  c.model = quadratic(q);
  WorldSetup setup = setup_of(c);
  setup.machine.bandwidth = BytesPerSecond(1e7);  // a round of 24 micro-batches
  const Lateness late = staleness_of(simulated(c, setup), 0);
  REQUIRE(late.size() == 2);
  CHECK(late.at("made 0") > 6 * 20);
  CHECK(late.at("predicted 0") > 5 * 20);
}

TEST_CASE("PETRA's stage j of J applies gradients 2 (J - j) updates late") {
  for (std::size_t j = 0; j < 4; ++j) {
    const std::int64_t tau = 2 * (3 - static_cast<std::int64_t>(j));
    Lateness expected;
    for (std::int64_t n = 0; n < 12; ++n) ++expected["made " + std::to_string(std::min(n, tau))];
    CHECK(of_stage("{name: petra, optimizer: {name: sgd, lr: 0.001}}", "1f1b", j, 1) == expected);
  }
}

TEST_CASE("PipeDream's stage j of J applies gradients J - j updates late, PipeDream-2BW's one") {
  for (std::size_t j = 0; j < 4; ++j)
    for (const auto& [schedule, delay] :
         {std::pair{"pipedream", 3 - static_cast<std::int64_t>(j)}, {"pipedream-2bw", 1}}) {
      CAPTURE(std::string(schedule));
      CAPTURE(j);
      const int micro_batches = schedule == std::string("pipedream") ? 1 : 4;
      Lateness expected;
      for (std::int64_t t = 0; t < 12; ++t)
        expected["made " + std::to_string(std::min<std::int64_t>(t, delay))] += micro_batches;
      CHECK(of_stage("{name: ddp, optimizer: {name: sgd, lr: 0.001}}", schedule, j,
                     micro_batches) == expected);
    }
}

TEST_CASE("a pipeline that drains applies none late") {
  CHECK(of_stage("{name: ddp}", "1f1b", 0, 4) == Lateness{{"made 0", 48}});
}

TEST_CASE("under gossip a gradient is late by the averagings that were made meanwhile") {
  for (const int rate : {1, 2, 3}) {
    CAPTURE(rate);
    AlgorithmCase c =
        quick("{name: ad-psgd, exact_rate: true, optimizer: {name: sgd, lr: 0.01}, rate: " +
                  std::to_string(rate) + "}",
              40);
    c.replicas = 2;
    c.micro_batches = 1;
    const WorldResult sim = simulated(c, recording(setup_of(c)));
    // All averagings of a gradient are over before it is: 0.1 ms against some microseconds.
    CHECK(staleness_of(sim, 0)["made " + std::to_string(rate)] >= 37);
    const WorldResult cpu = run_in_cpu(replaying(setup_of(c), sim), training_of(c));
    REQUIRE_MESSAGE(!cpu.error, why(cpu));
    for (const std::size_t worker : {0, 1})
      CHECK(staleness_of(cpu, worker) == staleness_of(sim, worker));
  }
}

TEST_CASE("gossip over a slow link makes gradients of the same rate late now and then only") {
  AlgorithmCase c =
      quick("{name: ad-psgd, exact_rate: true, optimizer: {name: sgd, lr: 0.01}, rate: 0.25}", 40);
  c.replicas = 2;
  c.micro_batches = 1;
  const Lateness late = staleness_of(simulated(c, setup_of(c)), 0);
  CHECK(late.at("made 1") == doctest::Approx(10).epsilon(0.2));
  CHECK(late.at("made 0") == doctest::Approx(30).epsilon(0.2));
}

}  // namespace orrery
