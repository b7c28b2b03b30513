// Workers that join DiLoCo or local SGD, leave or die: the others meet without them, one that joins
// has the bits of the others, and both worlds agree on all of it.
#include <doctest/doctest.h>

#include "backend/core/philox.hpp"
#include "sim/simgrid/engine.hpp"
#include "tests/parity/both_worlds.hpp"
#include "tests/parity/drawn_workers.hpp"
#include "tests/support/errors.hpp"

namespace orrery {
namespace {

constexpr const char* averaging_of_two = "inner_steps: 2, outer_lr: 1, outer_momentum: 0, ";

}  // namespace

// Of four workers the last dies behind its third step, so the second meeting is of three.
TEST_CASE("when a worker of DiLoCo dies the others meet without it, a deadline later") {
  const AlgorithmCase all_stay = drawn("diloco", averaging_of_two, 4, 6);
  const AlgorithmCase c = drawn(
      "diloco",
      std::string(averaging_of_two) + "deadline: 20ms, members: [{worker: 3, dies_after: 3}], ", 4,
      6);
  const WorldResult result = in_both_worlds(c);
  double theta = 1;
  for (const int workers : {4, 3, 3}) {
    double sum = 0;
    for (int i = 0; i < workers; ++i) sum += two_steps(theta, i);
    theta = sum / workers;
    if (workers == 4) {
      double dead = theta;
      dead -= 0.25 * (dead - 3);
      CHECK(x_of(result, 3) == doctest::Approx(dead).epsilon(1e-6));
    }
  }
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(x_of(result, i) == doctest::Approx(theta).epsilon(1e-6));
    CHECK(steps_of(result, i) == 6);
  }
  CHECK(steps_of(result, 3) == 3);
  const WorldResult healthy = run_in_sim(setup_of(all_stay), training_of(all_stay));
  const double later = static_cast<double>(result.end - healthy.end) * 1e-12;
  CHECK(later > 19e-3);  // the dead stopped a step before the others came to the meeting
  CHECK(later < 20.1e-3);
}

TEST_CASE("loss falls on when workers die one after the other, down to the last") {
  Quadratic q;
  q.seconds = {1e-3};
  AlgorithmCase c = drawn("diloco",
                          "inner_steps: 2, deadline: 5ms, members: [{worker: 0, dies_after: 2}, "
                          "{worker: 2, dies_after: 7}, {worker: 3, dies_after: 9}], ",
                          4, 60);
  c.model = quadratic(q);
  const WorldResult result = in_both_worlds(c);
  CHECK(steps_of(result, 1) == 60);
  CHECK(std::fabs(x_of(result, 1)) < 1e-3F);
}

// The third worker joins behind the second meeting, of eight steps in fours.
TEST_CASE(
    "a worker that joins DiLoCo has the bits of the others from then on, and its bytes count") {
  for (const int joiner : {2, 0}) {
    const std::string members =
        "inner_steps: 2, members: [{worker: " + std::to_string(joiner) + ", joins_after: 3}], ";
    const WorldResult result = in_both_worlds(drawn("diloco", members, 3, 8));
    for (std::size_t i = 1; i < 3; ++i)
      for (const char* const field :
           {"replica.parameters", "outer.parameters", "outer.optimizer.momentum"})
        CHECK(state_of(result, i, field) == state_of(result, 0, field));
    const auto j = static_cast<std::size_t>(joiner);
    CHECK(steps_of(result, j) == 4);
    // Vectors of 24 bytes: two meetings of two workers, 24 each; theta and v to three, 2/3 of 24
    // each; two meetings of three, 4/3 of 24.
    for (std::size_t i = 0; i < 3; ++i)
      CHECK(sent(result, i) == (i == j ? 0 : 2 * 24) + 2 * 16 + 2 * 32);
  }
}

TEST_CASE("what a worker that has joined brings in counts, and its outer step is the others'") {
  const AlgorithmCase c = drawn("diloco",
                                "inner_steps: 2, outer_lr: 0.5, outer_momentum: 0.5, members: "
                                "[{worker: 1, joins_after: 1}], ",
                                2, 6);
  const WorldResult result = in_both_worlds(c);
  double theta = 1, v = 0;
  for (const int workers : {1, 2, 2}) {
    double delta = 0;
    for (int i = 0; i < workers; ++i) delta += (theta - two_steps(theta, i)) / workers;
    v = 0.5 * v + delta;
    theta -= 0.5 * (delta + 0.5 * v);
  }
  for (std::size_t i = 0; i < 2; ++i)
    CHECK(x_of(result, i) == doctest::Approx(theta).epsilon(1e-6));
}

TEST_CASE(
    "a worker that leaves takes part in the meeting behind its last step, and is not missed") {
  const WorldResult result = in_both_worlds(
      drawn("local-sgd", "inner_steps: 2, members: [{worker: 1, leaves_after: 3}], ", 3, 8));
  double x = 1;
  for (const int workers : {3, 3, 2, 2}) {
    double sum = 0;
    for (int i = 0; i < 3; ++i)
      if (workers == 3 || i != 1) sum += two_steps(x, i);
    x = sum / workers;
  }
  CHECK(steps_of(result, 1) == 4);
  CHECK(x_of(result, 0) == doctest::Approx(x).epsilon(1e-6));
  CHECK(x_of(result, 2) == x_of(result, 0));
}

TEST_CASE("a worker of several ranks dies and joins as one") {
  AlgorithmCase c = drawn("diloco",
                          "workers: 3, inner_steps: 2, deadline: 5ms, members: [{worker: 0, "
                          "dies_after: 3}, {worker: 1, joins_after: 2}], ",
                          6, 8);
  const WorldResult result = in_both_worlds(c);
  for (std::size_t i = 2; i < 6; ++i) CHECK(x_of(result, i) == x_of(result, 2));
  CHECK(steps_of(result, 1) == 3);
  CHECK(steps_of(result, 3) == 6);
}

TEST_CASE("whoever comes and goes, and when, islands end, the same in bits, in both worlds") {
  for (int workers = 2; workers <= 7; ++workers)
    for (std::uint64_t seed = 1; seed <= (sim::actors_are_threads ? 2 : 8); ++seed) {
      CAPTURE(workers);
      CAPTURE(seed);
      Random random(seed, Purpose::user, static_cast<std::uint32_t>(workers));
      std::string members;
      std::vector<bool> to_the_end(static_cast<std::size_t>(workers), true);
      for (int i = 0; i < workers; ++i) {
        const std::uint64_t fate = random.below(4);
        if (fate == 0 || i == static_cast<int>(seed) % workers) continue;
        members += std::string(members.empty() ? "" : ", ") + "{worker: " + std::to_string(i);
        const auto step = [&](const char* what, std::uint64_t most) {
          members += std::string(", ") + what + ": " + std::to_string(1 + random.below(most));
        };
        if (fate != 2) step("joins_after", 14);
        if (fate != 1) step(seed % 2 == 0 ? "dies_after" : "leaves_after", 14);
        to_the_end[static_cast<std::size_t>(i)] = false;
        members += "}";
      }
      static const char* const ways[] = {"diloco", "diloco, codec: {name: int8}", "slowmo"};
      const WorldResult result = in_both_worlds(
          drawn(ways[seed % 3], "inner_steps: 3, deadline: 1ms, members: [" + members + "], ",
                workers, 12));
      const std::size_t one = seed % static_cast<std::size_t>(workers);
      for (std::size_t i = 0; i < result.notes.size(); ++i)
        if (to_the_end[i]) CHECK(x_of(result, i) == x_of(result, one));
    }
}

TEST_CASE("members of islands that cannot be are refused, with the reason") {
  const auto refusal = [](const std::string& options, int workers = 3) {
    return error_of([&] { plan_of("{name: diloco, " + options + "}").divide(workers); });
  };
  CHECK(mentions(refusal("members: [{worker: 1, dies_after: 2}]"), "has to be noticed"));
  CHECK(mentions(refusal("members: [{worker: 3, leaves_after: 2}]"), "no worker 3 of 3"));
  CHECK(mentions(refusal("members: [{worker: 1, leaves_after: 2}, {worker: 1, joins_after: 2}]"),
                 "named twice"));
  CHECK(
      mentions(refusal("members: [{worker: 0, leaves_after: 2}]", 1), "from the start to the end"));
  const auto streaming = [](const std::string& options) {
    return error_of([&] { plan_of("{name: streaming-diloco, members: [" + options + "}"); });
  };
  CHECK(mentions(streaming("{worker: 0, dies_after: 2}]"), "workers that die while fragments"));
  CHECK(mentions(streaming("{worker: 0, leaves_after: 2}], eager: true"), "always under way"));
  CHECK(mentions(error_of([] { plan_of("{name: lagg-a, members: []}"); }), "members"));
}

// Eight elements in four-bit numbers with scales, or as drawn: who dies has to leave no trace.
TEST_CASE(
    "a mean that a dead worker is missed in is sent again, in a codec too, from whole values") {
  for (const char* const codec : {"", "codec: {name: fp16}, "}) {
    const WorldResult result =
        in_both_worlds(drawn("diloco",
                             std::string(averaging_of_two) + codec +
                                 "deadline: 5ms, members: [{worker: 3, dies_after: 3}], ",
                             4, 6));
    double theta = 1;
    for (const int workers : {4, 3, 3}) {
      double sum = 0;
      for (int i = 0; i < workers; ++i) sum += two_steps(theta, i);
      theta = sum / workers;
    }
    for (std::size_t i = 0; i < 3; ++i) {
      CHECK(x_of(result, i) == doctest::Approx(theta).epsilon(1e-3));
      CHECK(x_of(result, i) == x_of(result, 0));
    }
  }
}

// Of those that meet, as drawn for each worker of all.
TEST_CASE(
    "of workers that come and go some lose their outer gradient, and the mean is of the rest") {
  const WorldResult result = in_both_worlds(
      drawn("diloco",
            std::string(averaging_of_two) + "drop: 0.5, members: [{worker: 1, leaves_after: 3}], ",
            4, 16));
  const Philox draws(7, Purpose::order);
  double theta = 1;
  double x[4] = {1, 1, 1, 1};
  for (int meeting = 1; meeting <= 8; ++meeting) {
    double sum = 0;
    int arrived = 0;
    bool mine[4] = {};
    for (int i = 0; i < 4; ++i) {
      if (i == 1 && meeting > 2) continue;
      x[i] = two_steps(x[i], i);
      mine[i] = draws.uniform(static_cast<std::uint64_t>(meeting * 4 + i)) >= 0.5;
      if (!mine[i]) continue;
      sum += theta - x[i];
      ++arrived;
    }
    if (arrived > 0) theta -= sum / arrived;
    for (int i = 0; i < 4; ++i)
      if ((i != 1 || meeting <= 2) && mine[i]) x[i] = theta;
  }
  for (std::size_t i = 0; i < 4; ++i) CHECK(x_of(result, i) == doctest::Approx(x[i]).epsilon(1e-5));
}

// alpha = 1, beta = 0.5; gamma is the worker's rate of 0.25.
TEST_CASE(
    "a worker that joins SlowMo has x and u of the others, and one that leaves is not missed") {
  const WorldResult result =
      in_both_worlds(drawn("slowmo",
                           "inner_steps: 2, slow_momentum: 0.5, members: [{worker: 2, joins_after: "
                           "3}, {worker: 1, leaves_after: 6}], ",
                           3, 10));
  double x = 1, u = 0;
  int round = 0;
  for (const auto& there :
       std::vector<std::vector<int>>{{0, 1}, {0, 1}, {0, 1, 2}, {0, 2}, {0, 2}}) {
    double mean = 0;
    for (const int i : there) mean += two_steps(x, i) / static_cast<double>(there.size());
    u = 0.5 * u + (x - mean) / 0.25;
    x -= 0.25 * u;
    if (++round == 3) CHECK(x_of(result, 1) == doctest::Approx(x).epsilon(1e-5));
  }
  for (const std::size_t i : {0U, 2U}) CHECK(x_of(result, i) == doctest::Approx(x).epsilon(1e-5));
  CHECK(state_of(result, 2, "slowmo.optimizer.momentum") ==
        state_of(result, 0, "slowmo.optimizer.momentum"));
}

namespace {

// Two fragments of three elements each, sent at 4, 8, … and 2, 6, …, applied a step later.
AlgorithmCase in_fragments(const std::string& options, int replicas, std::int64_t steps,
                           int blocks = 2) {
  AlgorithmCase c = drawn("streaming-diloco",
                          "inner_steps: 4, fragment_layers: 1, codec: {name: fp32}, outer_lr: 1, "
                          "outer_momentum: 0, " +
                              options,
                          replicas, steps);
  Quadratic q;
  q.elements = 6;
  q.blocks = blocks;
  q.target = [](int rank, std::size_t) { return static_cast<float>(rank); };
  q.seconds = {1e-3};
  c.model = quadratic(q);
  return c;
}

}  // namespace

TEST_CASE("workers join Streaming DiLoCo and leave it when its first fragment has met") {
  const WorldResult result = in_both_worlds(in_fragments(
      "mixing: 0.5, members: [{worker: 2, joins_after: 3}, {worker: 1, leaves_after: 8}], ", 3,
      14));
  // By hand, of both fragments: theta[p], and theta_m[p] of worker m.
  double theta[2] = {1, 1}, delta[2] = {0, 0}, at[3][2] = {{1, 1}, {1, 1}, {1, 1}};
  const auto there = [](int m, int t) { return m == 0 || (m == 1 ? t <= 9 : t > 5); };
  for (int t = 1; t <= 14; ++t) {
    for (int m = 0; m < 3; ++m)
      for (double& x : at[m])
        if (there(m, t)) x -= 0.25 * (x - m);
    for (int p = 0; p < 2; ++p) {
      const int offset = p == 0 ? 0 : 2;
      if (t > 1 && (t - 1 - offset) % 4 == 0 && t - 1 >= (p == 0 ? 4 : 2)) {
        theta[p] -= delta[p];
        for (int m = 0; m < 3; ++m)
          if (there(m, t)) at[m][p] = 0.5 * at[m][p] + 0.5 * theta[p];
      }
      if ((t - offset) % 4 == 0 && t >= (p == 0 ? 4 : 2)) {
        double sum = 0;
        int workers = 0;
        for (int m = 0; m < 3; ++m)
          if (there(m, t)) sum += theta[p] - at[m][p], ++workers;
        delta[p] = sum / workers;
      }
    }
    if (t == 5)  // one joins, behind that step
      for (int p = 0; p < 2; ++p) at[2][p] = theta[p];
  }
  for (std::size_t m = 0; m < 3; ++m)
    for (std::size_t p = 0; p < 2; ++p)
      CHECK(state_of(result, m, "replica.parameters")[3 * p] ==
            doctest::Approx(at[m][p]).epsilon(1e-5));
  CHECK(steps_of(result, 1) == 9);
  CHECK(steps_of(result, 2) == 9);
  CHECK(state_of(result, 2, "outer.parameters") == state_of(result, 0, "outer.parameters"));
}

TEST_CASE("Streaming DiLoCo of one fragment without overlap and mixing is DiLoCo, members too") {
  const std::string members =
      "inner_steps: 4, outer_lr: 0.5, outer_momentum: 0.5, members: [{worker: 2, joins_after: 3}, "
      "{worker: 1, leaves_after: 7}], ";
  const WorldResult diloco = in_both_worlds(drawn("diloco", members, 3, 14));
  const WorldResult streaming = in_both_worlds(
      drawn("streaming-diloco",
            "fragment_layers: 0, overlap: 0, mixing: 0, codec: {name: fp32}, " + members, 3, 14));
  for (std::size_t i = 0; i < 3; ++i)
    CHECK(x_of(streaming, i) == doctest::Approx(x_of(diloco, i)).epsilon(1e-6));
}

TEST_CASE("members of Streaming DiLoCo need a moment at which no fragment is under way") {
  const AlgorithmCase c =
      in_fragments("overlap: 2, members: [{worker: 1, leaves_after: 2}], ", 2, 8);
  const WorldResult result = run_in_cpu(setup_of(c), training_of(c));
  REQUIRE(result.error);
  CHECK(mentions(*result.error, "no other is under way"));
}

TEST_CASE("a training with members that is stopped after any step goes on to the same bits") {
  for (const char* const algorithm : {"diloco", "local-sgd", "slowmo"}) {
    const AlgorithmCase whole =
        drawn(algorithm,
              "inner_steps: 3, deadline: 1ms, members: [{worker: 1, joins_after: 4}, {worker: 2, "
              "dies_after: 5}, {worker: 3, leaves_after: 8}, {worker: 4, joins_after: 2, "
              "leaves_after: 2}], ",
              5, 14);
    const WorldResult at_once = in_both_worlds(whole);
    for (std::int64_t stop = 1; stop < whole.steps; ++stop) {
      CAPTURE(algorithm);
      CAPTURE(stop);
      AlgorithmCase first = whole, second = whole;
      first.stop = stop;
      const WorldResult stopped = run_in_cpu(setup_of(first), training_of(first));
      REQUIRE_MESSAGE(!stopped.error, why(stopped));
      second.resume = &stopped;
      const WorldResult resumed = run_in_sim(setup_of(second), training_of(second));
      REQUIRE_MESSAGE(!resumed.error, why(resumed));
      for (std::size_t rank = 0; rank < 5; ++rank)
        CHECK(resumed.notes[rank].checkpoints.at(0) == at_once.notes[rank].checkpoints.at(0));
    }
  }
}

}  // namespace orrery
