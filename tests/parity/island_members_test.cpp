// Workers that join DiLoCo or local SGD, leave or die: the others meet without them, one that joins
// has the bits of the others, and both worlds agree on all of it.
#include <doctest/doctest.h>

#include "backend/core/philox.hpp"
#include "sim/simgrid/engine.hpp"
#include "tests/parity/both_worlds.hpp"
#include "tests/support/errors.hpp"
#include "tests/support/quadratic.hpp"

namespace orrery {
namespace {

// Worker i is drawn towards i, a quarter of the way in each step of a millisecond.
AlgorithmCase drawn(const std::string& name, const std::string& options, int replicas,
                    std::int64_t steps) {
  Quadratic q;
  q.elements = 6;
  q.target = [](int rank, std::size_t) { return static_cast<float>(rank); };
  q.seconds = {1e-3};
  AlgorithmCase c;
  c.algorithm = "{name: " + name + ", " + options + "inner: {optimizer: {name: sgd, lr: 0.25}}}";
  c.replicas = replicas;
  c.steps = steps;
  c.micro_batches = 1;
  c.model = quadratic(q);
  return c;
}

float x_of(const WorldResult& result, std::size_t worker) {
  return state_of(result, worker, "replica.parameters")[0];
}

// Losses that it has noted, one a step.
std::size_t steps_of(const WorldResult& result, std::size_t worker) {
  return result.steps[worker].size();
}

double two_steps(double x, double target) {
  for (int h = 0; h < 2; ++h) x -= 0.25 * (x - target);
  return x;
}

constexpr const char* averaging = "inner_steps: 2, outer_lr: 1, outer_momentum: 0, ";

}  // namespace

// Of four workers the last dies behind its third step, so the second meeting is of three.
TEST_CASE("when a worker of DiLoCo dies the others meet without it, a deadline later") {
  const AlgorithmCase all_stay = drawn("diloco", averaging, 4, 6);
  const AlgorithmCase c = drawn(
      "diloco", std::string(averaging) + "deadline: 20ms, members: [{worker: 3, dies_after: 3}], ",
      4, 6);
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
      const WorldResult result = in_both_worlds(drawn(
          "diloco", "inner_steps: 3, deadline: 1ms, members: [" + members + "], ", workers, 12));
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
  CHECK(mentions(refusal("drop: 0.5, members: [{worker: 0, leaves_after: 2}]"),
                 "lost outer gradients"));
  CHECK(
      mentions(refusal("codec: {name: int8}, members: [{worker: 0, leaves_after: 2}]"), "a codec"));
  CHECK(mentions(error_of([] { plan_of("{name: slowmo, members: []}"); }), "members"));
}

}  // namespace orrery
