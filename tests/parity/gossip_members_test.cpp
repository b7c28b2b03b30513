// Workers that join gossip, leave it or die on the way: the others go on, nothing hangs, and both
// worlds agree on what happened.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "sim/simgrid/engine.hpp"
#include "tests/parity/gossip_run.hpp"
#include "tests/parity/results.hpp"
#include "tests/support/errors.hpp"

namespace orrery {
namespace {

// All pull towards the same place, a tenth of the way per gradient of a millisecond.
AlgorithmCase pulling(const std::string& options, int replicas, std::int64_t steps) {
  Quadratic q;
  q.elements = 4;
  q.seconds = {1e-3, 1.2e-3, 0.9e-3};
  AlgorithmCase c;
  c.algorithm = "{name: " + options + ", optimizer: {name: sgd, lr: 0.1}}";
  c.replicas = replicas;
  c.steps = steps;
  c.micro_batches = 1;
  c.model = quadratic(q);
  return c;
}

std::size_t total(const std::vector<std::vector<double>>& losses) {
  std::size_t all = 0;
  for (const auto& each : losses) all += each.size();
  return all;
}

}  // namespace

TEST_CASE("when a worker dies the others take its gradients and learn on, within the deadline") {
  const std::string ring = "a2cid2, graph: ring, deadline: 10ms";
  const AlgorithmCase healthy = pulling(ring, 6, 60);
  const WorldResult all = ran(run_in_sim(swift(healthy, 1), training_of(healthy)));
  const AlgorithmCase c = pulling(ring + ", members: [{worker: 2, dies_after: 10}]", 6, 60);
  const WorldResult result = ran(run_in_sim(swift(c, 1), training_of(c)));
  const std::vector<std::vector<double>> losses = places(result);
  CHECK(losses[2].size() == 10);
  CHECK(total(losses) == 6 * 60 - 1);  // one had been dealt to it
  for (std::size_t i = 0; i < 6; ++i) {
    CHECK(sent(result, i) == sent_by_cost_block(result, i));
    if (i != 2) CHECK(losses[i].back() < 1e-4 * losses[i].front());
  }
  // Five compute what six would have, and once two of them wait for a deadline and an averaging.
  const double ms = static_cast<double>(result.end) * 1e-9;
  const double healthy_ms = static_cast<double>(all.end) * 1e-9;
  CHECK(ms > healthy_ms);
  CHECK(ms < 1.35 * (10 + (healthy_ms - 10) * 6 / 5) + 12);
}

// On this machine's threads, where nothing says who computes how many: who has died is missed for
// 20 ms at most at a time, and who is only slow goes on alone.
TEST_CASE("on cpu too the others go on and learn on when a worker dies") {
  const AlgorithmCase c =
      pulling("a2cid2, graph: ring, deadline: 20ms, members: [{worker: 2, dies_after: 3}]", 6, 60);
  const WorldResult result = ran(run_in_cpu(swift(c, 1), training_of(c)));
  const std::vector<std::vector<double>> losses = places(result);
  CHECK(losses[2].size() <= 3);
  CHECK(total(losses) >= 6 * 60 - 1);
  for (const auto& each : losses)
    if (each.size() > 1) CHECK(each.back() < each.front());
}

TEST_CASE("a worker between two that have died goes on alone") {
  const AlgorithmCase c = pulling(
      "ad-psgd, graph: ring, deadline: 10ms, members: [{worker: 0, dies_after: 5}, "
      "{worker: 2, dies_after: 8}]",
      5, 40);
  const WorldResult result = ran(run_in_sim(swift(c, 2), training_of(c)));
  CHECK(places(result)[1].size() > 40);
  CHECK(places(result)[1].back() < 1e-4);
}

TEST_CASE("with a deadline shorter than a gradient workers lose each other, and all go on alone") {
  const AlgorithmCase c = pulling("a2cid2, graph: ring, deadline: 100us", 5, 30);
  const WorldResult result = ran(run_in_sim(swift(c, 1), training_of(c)));
  CHECK(total(places(result)) == 5 * 30);
  for (const auto& losses : places(result)) CHECK(losses.back() < 0.1 * losses.front());
}

TEST_CASE("a worker that leaves is missed by nobody") {
  const AlgorithmCase c =
      pulling("a2cid2, graph: ring, members: [{worker: 1, leaves_after: 3}]", 4, 30);
  const WorldResult result = ran(run_in_sim(swift(c, 2), training_of(c)));
  CHECK(places(result)[1].size() == 3);
  CHECK(total(places(result)) == 4 * 30 - 1);
}

TEST_CASE("whoever dies or leaves, and when, gossip ends, and is repeated on cpu bit for bit") {
  for (int ranks = 1; ranks <= 7; ++ranks)
    for (std::uint64_t seed = 1; seed <= (sim::actors_are_threads ? 10 : 60); ++seed) {
      CAPTURE(ranks);
      CAPTURE(seed);
      static const char* const graphs[] = {"ring", "complete", "exponential"};
      Random random(seed, Purpose::user, static_cast<std::uint32_t>(ranks));
      std::string members;
      for (int i = 0; i < ranks; ++i) {
        const std::uint64_t fate = random.below(3);
        if (fate == 0) continue;
        members += std::string(members.empty() ? "" : ", ") + "{worker: " + std::to_string(i) +
                   (fate == 1 ? ", dies_after: " : ", leaves_after: ") +
                   std::to_string(1 + random.below(6)) + "}";
      }
      const AlgorithmCase c =
          pulling(std::string("a2cid2, deadline: 20ms, rate: ") + (seed % 2 == 0 ? "1.5" : "0.5") +
                      ", graph: " + graphs[seed % 3] + ", members: [" + members + "]",
                  ranks, 6);
      const bool on_cpu = seed % 10 == 0;
      const WorldSetup setup = swift(c, seed);
      const WorldResult sim = ran(run_in_sim(on_cpu ? recording(setup) : setup, training_of(c)));
      if (!on_cpu) continue;
      ran(run_in_cpu(setup, training_of(c)));
      const WorldResult cpu = ran(run_in_cpu(replaying(setup, sim), training_of(c)));
      CHECK(cpu.noted() == sim.noted());
      for (std::size_t i = 0; i < sim.notes.size(); ++i)
        CHECK(cpu.notes[i].checkpoints == sim.notes[i].checkpoints);
    }
}

// All move by -0.1 with each gradient, so that x tells how many a worker has computed.
TEST_CASE("a worker that joins begins where a neighbour is, and computes its share from then on") {
  for (const char* const pairing : {"available", "poisson"}) {
    CAPTURE(pairing);
    const AlgorithmCase c = drifting(
        std::string("{name: ad-psgd, graph: ring, members: [{worker: 2, joins_after: 40}], ") +
            "pairing: " + pairing + ", optimizer: {name: sgd, lr: 0.1}}",
        Drift{{1, 1, 1, 1, 1}}, 30);
    const WorldResult result = ran(run_in_sim(swift(c, 1), training_of(c)));
    const std::vector<std::vector<double>> at = places(result);
    CHECK(total(at) == 5 * 30);
    CHECK(at[0].front() == 0);
    CHECK(at[2].front() == doctest::Approx(-0.1 * 40 / 4).epsilon(0.25));
    CHECK(static_cast<double>(at[2].size()) == doctest::Approx((150.0 - 40) / 5).epsilon(0.15));
    for (std::size_t i = 0; i < 5; ++i) {
      CHECK(sent(result, i) == sent_by_cost_block(result, i));
      CHECK(at[i].back() < -2.5);
    }
    CHECK(sent(result, 2) > 0);
  }
}

TEST_CASE("a worker that is to join when all is done stays away") {
  const AlgorithmCase c =
      pulling("a2cid2, graph: ring, members: [{worker: 0, joins_after: 1000}]", 4, 30);
  const WorldResult result = ran(run_in_sim(swift(c, 1), training_of(c)));
  CHECK(places(result)[0].empty());
  CHECK(sent(result, 0) == 0);
  CHECK(total(places(result)) == 4 * 30 - 1);  // its first
}

TEST_CASE("whoever joins, and when, gossip ends, and is repeated on cpu bit for bit") {
  for (int ranks = 3; ranks <= 7; ++ranks)
    for (std::uint64_t seed = 1; seed <= (sim::actors_are_threads ? 10 : 30); ++seed) {
      CAPTURE(ranks);
      CAPTURE(seed);
      static const char* const graphs[] = {"ring", "complete", "exponential"};
      static const char* const ways[] = {", pairing: poisson", ", deadline: 20ms", ""};
      Random random(seed, Purpose::user, static_cast<std::uint32_t>(ranks));
      const std::string way = ways[seed % 3];
      const auto joiner = static_cast<int>(random.below(static_cast<std::uint64_t>(ranks)));
      std::string members =
          "{worker: " + std::to_string(joiner) + ", joins_after: " +
          std::to_string(1 + random.below(static_cast<std::uint64_t>(6 * ranks))) +
          "}, {worker: " + std::to_string((joiner + 1) % ranks) +
          (way[2] == 'd' ? ", dies_after: " : ", leaves_after: ") +
          std::to_string(1 + random.below(8)) + "}";
      const AlgorithmCase c =
          pulling("a2cid2, rate: " + std::string(seed % 2 == 0 ? "1.5" : "0.5") + way +
                      ", graph: " + graphs[seed / 3 % 3] + ", members: [" + members + "]",
                  ranks, 6);
      const bool on_cpu = seed % 10 == 0;
      const WorldSetup setup = swift(c, seed);
      const WorldResult sim = ran(run_in_sim(on_cpu ? recording(setup) : setup, training_of(c)));
      for (std::size_t i = 0; i < sim.notes.size(); ++i)
        CHECK(sent(sim, i) == sent_by_cost_block(sim, i));
      if (!on_cpu) continue;
      ran(run_in_cpu(setup, training_of(c)));
      const WorldResult cpu = ran(run_in_cpu(replaying(setup, sim), training_of(c)));
      CHECK(cpu.noted() == sim.noted());
      for (std::size_t i = 0; i < sim.notes.size(); ++i)
        CHECK(cpu.notes[i].checkpoints == sim.notes[i].checkpoints);
    }
}

TEST_CASE("who is to join is turned away when all others have died") {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    CAPTURE(seed);
    const AlgorithmCase c = pulling(
        "ad-psgd, graph: complete, deadline: 20ms, members: [{worker: 0, dies_after: 2}, "
        "{worker: 1, dies_after: 3}, {worker: 2, joins_after: 100}]",
        3, 6);
    const WorldResult result = run_in_sim(swift(c, seed), training_of(c));
    CHECK_MESSAGE(!result.error, why(result));
  }
}

TEST_CASE("workers that cannot join are refused with the reason") {
  const auto refused = [](const std::string& members, int workers) {
    return error_of([&] { plan_of("{name: a2cid2, members: [" + members + "]}").divide(workers); });
  };
  CHECK(mentions(refused("{worker: 7, joins_after: 3}", 4), "no worker 7 of 4"));
  CHECK(mentions(refused("{worker: 1, joins_after: 3}", 2), "two workers have to be there"));
  CHECK(mentions(refused("{worker: 1, joins_after: 3}, {worker: 4, joins_after: 3}", 6),
                 "no path leads from worker 0 to worker 2"));
  CHECK(mentions(refused("{worker: 1, joins_after: 3}, {worker: 2, joins_after: 3}, "
                         "{worker: 3, joins_after: 3}",
                         6),
                 "worker 2 joins and has no neighbour"));
  const Error dadao = error_of([] {
    plan_of("{name: dadao, mu: 1, smoothness: 2, members: [{worker: 1, joins_after: 3}]}");
  });
  CHECK(mentions(dadao, "not available yet: workers that join"));
}

TEST_CASE("a worker that dies needs a deadline by which it is noticed") {
  const Error no_deadline =
      error_of([] { plan_of("{name: a2cid2, members: [{worker: 2, dies_after: 10}]}"); });
  CHECK(mentions(no_deadline, "has to be noticed"));
  const Error poisson = error_of([] { plan_of("{name: a2cid2, deadline: 1s, pairing: poisson}"); });
  CHECK(mentions(poisson, "not available yet"));
}

}  // namespace orrery
