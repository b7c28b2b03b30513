// Every algorithm of the table: the same bits in sim and on the CPU, the bytes of its cost block in
// both, and the same bits after a stop at any step.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/support/algorithm_run.hpp"
#include "tests/support/quadratic.hpp"

namespace orrery {
namespace {

struct Named {
  std::string name, yaml;
};

const std::string learned = std::string(ORRERY_SOURCE_DIR) + "/scenarios/learned/";

// By name, with what makes everything of it happen within a few steps.
const std::vector<Named> cases{
    {"none", "{name: none}"},
    {"ddp", "{name: ddp, bucket: 2kB, first_bucket: 1kB}"},
    {"zero", "{name: zero, bucket: 3kB, clip_norm: 0.5}"},
    {"zero", "{name: zero, stage: 2, shard: 2, communication: bf16}"},
    {"zero", "{name: zero, stage: 3, reduce: last}"},
    {"fsdp", "{name: fsdp, shard: 2, clip_norm: 0.5}"},
    {"fsdp", "{name: fsdp, reshard_after_forward: 2, prefetch: 2, limit: 3}"},
    {"fsdp", "{name: fsdp, reshard_after_forward: false, reshard_after_backward: false}"},
    {"local-sgd", "{name: local-sgd, inner_steps: 3}"},
    {"local-sgd", "{name: local-sgd, inner_steps: 2, workers: 2, inner: {name: fsdp}}"},
    {"local-sgd",
     "{name: local-sgd, inner_steps: 2, workers: 2, inner: {name: zero, bucket: 3kB}}"},
    {"slowmo", "{name: slowmo, inner_steps: 3, workers: 2, inner: {optimizer: {warmup: 5}}}"},
    {"diloco", "{name: diloco, inner_steps: 4, codec: {name: bf16}}"},
    {"diloco",
     "{name: diloco, inner_steps: 3, workers: 2, inner: {name: zero, stage: 3, clip_norm: 0.5}}"},
    {"streaming-diloco",
     "{name: streaming-diloco, inner_steps: 6, fragment_layers: 2, overlap: 3}"},
    {"streaming-diloco",
     "{name: streaming-diloco, inner_steps: 4, fragment_layers: 2, eager: true}"},
    {"streaming-diloco",
     "{name: streaming-diloco, inner_steps: 4, fragment_layers: 1, workers: 2, inner: {name: "
     "fsdp}}"},
    {"lopt-a", "{name: lopt-a, inner_steps: 3, weights: " + learned + "averaging.yaml}"},
    {"lopt-a", "{name: lopt-a, inner_steps: 3, workers: 2, inner: {name: fsdp}, weights: " +
                   learned + "averaging.yaml}"},
    {"lagg-a", "{name: lagg-a, inner_steps: 3, weights: " + learned + "averaging-4-workers.yaml}"},
    {"lagg-a", "{name: lagg-a, inner_steps: 2, sharded: false, weights: " + learned +
                   "averaging-4-workers.yaml}"},
    {"acco", "{name: acco, optimizer: {weight_decay: 0.1}}"},
    {"dpu", "{name: dpu}"},
    {"a2cid2", "{name: a2cid2, rate: 2, clip_norm: 1}"},
    {"ad-psgd", "{name: ad-psgd, graph: complete, rate: 0.5}"},
    {"dadao", "{name: dadao, mu: 0.1, smoothness: 10, graph: torus}"},
    {"sgp", "{name: sgp}"},
    {"overlap-sgp", "{name: overlap-sgp, overlap: 2}"},
    {"qsgd", "{name: qsgd, bucket: 64}"},
    {"topk", "{name: topk, ratio: 0.05}"},
    {"dgc", "{name: dgc, ratio: 0.01, warmup_steps: 1, clip_norm: 1, optimizer: {lr: 0.1}}"},
    {"powersgd", "{name: powersgd, optimizer: {name: momentum, lr: 0.1}}"},
    {"onebit-adam",
     "{name: onebit-adam, freeze_step: 3, optimizer: {weight_decay: 0.1, epsilon: 0.01}}"},
    {"demo", "{name: demo, kept: 4, optimizer: {lr: 0.003, weight_decay: 0.1}}"},
    // Of one stage; petra_test has several.
    {"petra", "{name: petra, engines: 2, optimizer: {weight_decay: 0.1}}"},
    {"reversible-backprop", "{name: reversible-backprop}"},
    {"delayed-gradients", "{name: delayed-gradients}"},
    {"dgl", "{name: dgl}"},
    {"weight-prediction", "{name: weight-prediction, optimizer: {name: momentum, lr: 0.1}}"},
};

AlgorithmCase case_of(const Named& named) {
  AlgorithmCase c;
  c.algorithm = named.yaml;
  if (named.name == "none") c.replicas = 1;
  c.steps = 7;
  return c;
}

void check_same(const WorldResult& sim, const WorldResult& cpu) {
  REQUIRE_MESSAGE(!sim.error, why(sim));
  REQUIRE_MESSAGE(!cpu.error, why(cpu));
  REQUIRE(sim.notes.size() == cpu.notes.size());
  for (std::size_t rank = 0; rank < sim.notes.size(); ++rank) {
    CHECK(sim.notes[rank].values == cpu.notes[rank].values);
    CHECK(sim.notes[rank].checkpoints == cpu.notes[rank].checkpoints);
  }
  CHECK(sim.channels == cpu.channels);
  CHECK(sim.peaks == cpu.peaks);
}

}  // namespace

TEST_CASE("every algorithm of the table is tested here") {
  for (const std::string& name : algorithm_names()) {
    bool found = false;
    for (const Named& named : cases) found = found || named.name == name;
    CHECK_MESSAGE(found, name);
  }
}

TEST_CASE("every algorithm gives the same bits in sim and on the CPU, following sim's decisions") {
  for (const Named& named : cases) {
    CAPTURE(named.name);
    const AlgorithmCase c = case_of(named);
    const WorldResult sim = run_in_sim(recording(setup_of(c)), training_of(c));
    REQUIRE_MESSAGE(!sim.error, why(sim));
    check_same(sim, run_in_cpu(replaying(setup_of(c), sim), training_of(c)));
  }
}

TEST_CASE("every algorithm sends the bytes of its cost block, in sim and on the CPU") {
  for (const Named& named : cases) {
    CAPTURE(named.yaml);
    const AlgorithmCase c = case_of(named);
    for (const WorldResult& result :
         {run_in_sim(setup_of(c), training_of(c)), run_in_cpu(setup_of(c), training_of(c))}) {
      REQUIRE_MESSAGE(!result.error, why(result));
      for (std::size_t rank = 0; rank < result.notes.size(); ++rank)
        CHECK(sent(result, rank) == sent_by_cost_block(result, rank));
      if (c.replicas > 1) CHECK(sent(result, 0) > 0);
    }
  }
}

TEST_CASE(
    "every algorithm that is stopped after any step and resumed ends in the same bits, as late") {
  for (const Named& named : cases) {
    CAPTURE(named.name);
    if (!plan_of(named.yaml).services.empty()) continue;  // time decides what comes of it
    AlgorithmCase whole = case_of(named);
    Quadratic q;  // its state is small
    q.elements = 40;
    q.blocks = 4;
    q.columns = 5;
    q.curvature = [](int rank, std::size_t j) {
      return 0.3F + 0.1F * static_cast<float>(j % 3) + 0.2F * static_cast<float>(rank);
    };
    q.target = [](int rank, std::size_t j) {
      return static_cast<float>(rank) - 0.1F * static_cast<float>(j);
    };
    whole.model = quadratic(q);
    const WorldResult at_once = run_in_sim(setup_of(whole), training_of(whole));
    for (std::int64_t stop = 1; stop < whole.steps; ++stop) {
      CAPTURE(stop);
      AlgorithmCase first = whole, second = whole;
      first.stop = stop;
      const WorldResult stopped = run_in_sim(setup_of(first), training_of(first));
      second.resume = &stopped;
      const WorldResult resumed = run_in_sim(setup_of(second), training_of(second));
      REQUIRE_MESSAGE(!resumed.error, why(resumed));
      for (std::size_t rank = 0; rank < resumed.notes.size(); ++rank) {
        REQUIRE(resumed.notes[rank].checkpoints[0] == at_once.notes[rank].checkpoints[0]);
        Lateness both = staleness_of(stopped, rank);  // what waited is counted where it is applied
        for (const auto& [late, micro_batches] : staleness_of(resumed, rank))
          both[late] += micro_batches;
        REQUIRE(both == staleness_of(at_once, rank));
      }
    }
  }
}

TEST_CASE("every algorithm learns") {
  for (const Named& named : cases) {
    CAPTURE(named.name);
    AlgorithmCase c = case_of(named);
    c.steps = 40;
    const WorldResult sim = run_in_sim(setup_of(c), training_of(c));
    REQUIRE_MESSAGE(!sim.error, why(sim));
    // Of workers that take turns, each has as many as it took.
    const bool in_turns = !plan_of(named.yaml).services.empty();
    const std::vector<double> losses =
        losses_of(sim, 0, in_turns ? std::ssize(sim.notes[0].values) - 1 : c.steps);
    CHECK(losses.back() < losses.front());
  }
}

}  // namespace orrery
