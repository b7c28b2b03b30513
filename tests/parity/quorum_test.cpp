// Meetings that begin when a quorum has come and its window of grace is over: who comes late is
// left out, and goes on from what the next meeting brings. The simulator's decisions are repeated
// on cpu to the bit.
#include <doctest/doctest.h>

#include <algorithm>

#include "backend/core/philox.hpp"
#include "sim/simgrid/engine.hpp"
#include "tests/parity/both_worlds.hpp"
#include "tests/parity/drawn_workers.hpp"
#include "tests/parity/gossip_run.hpp"
#include "tests/support/errors.hpp"

namespace orrery {
namespace {

// In the simulator, and on the CPU by the same decisions: the same values, states and bytes, the
// latter as the cost block says.
WorldResult repeated(const AlgorithmCase& c) {
  const WorldSetup setup = swift(c, 7);
  const WorldResult sim = run_in_sim(recording(setup), training_of(c));
  REQUIRE_MESSAGE(!sim.error, why(sim));
  check_alike(sim, run_in_cpu(replaying(setup, sim), training_of(c)));
  return sim;
}

double ms(const WorldResult& result) { return static_cast<double>(result.end) * 1e-9; }

// Rounds of so many workers from 0 on, whose theta is the mean of where two steps take them.
double after_rounds(int rounds, int workers, double theta = 1) {
  for (int round = 0; round < rounds; ++round) {
    double sum = 0;
    for (int i = 0; i < workers; ++i) sum += two_steps(theta, i);
    theta = sum / workers;
  }
  return theta;
}

constexpr const char* plain_averaging = "inner_steps: 2, outer_lr: 1, outer_momentum: 0, ";
const std::vector<double> last_is_slower{1e-3, 1e-3, 1e-3, 1.5e-3};

}  // namespace

// The last of four takes 3 ms for two steps, the others 2 ms.
TEST_CASE("a meeting goes on without the slow when a quorum has come and its grace is over") {
  const WorldResult result = repeated(drawn(
      "diloco", std::string(plain_averaging) + "quorum: 3, grace: 500us, ", 4, 8, last_is_slower));
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(x_of(result, i) == doctest::Approx(after_rounds(4, 3)).epsilon(1e-6));
    CHECK(steps_of(result, i) == 8);
  }
  // It is late for the first meeting, and given theta behind the second, for which nobody waits
  // then; late for the third, and for the last there is no other.
  CHECK(x_of(result, 3) == doctest::Approx(two_steps(after_rounds(2, 3), 3)).epsilon(1e-6));
  CHECK(steps_of(result, 3) == 4);
  // Vectors of 24 bytes: four means of three, 4/3 of 24 each; theta to four, 3/4 of 24.
  for (std::size_t i = 0; i < 4; ++i) CHECK(sent(result, i) == (i == 3 ? 0 : 4 * 32) + 18);
  CHECK(ms(result) == doctest::Approx(9.0).epsilon(1e-2));
}

TEST_CASE("whoever comes within the grace takes part") {
  const WorldResult result = repeated(drawn(
      "diloco", std::string(plain_averaging) + "quorum: 3, grace: 1100us, ", 4, 8, last_is_slower));
  for (std::size_t i = 0; i < 4; ++i)
    CHECK(x_of(result, i) == doctest::Approx(after_rounds(4, 4)).epsilon(1e-6));
  CHECK(ms(result) == doctest::Approx(4 * 3.0).epsilon(1e-2));
}

TEST_CASE("the grace begins when the quorum is there, not before") {
  // The second comes at 4 ms, the third 1.5 ms later.
  const WorldResult result =
      repeated(drawn("diloco", std::string(plain_averaging) + "quorum: 2, grace: 1600us, ", 3, 2,
                     {1e-3, 2e-3, 2.75e-3}));
  for (std::size_t i = 0; i < 3; ++i)
    CHECK(x_of(result, i) == doctest::Approx(after_rounds(1, 3)).epsilon(1e-6));
}

TEST_CASE("who was late has the outer momentum of the others, and takes part when it is in time") {
  const AlgorithmCase c = drawn(
      "diloco", "inner_steps: 2, outer_lr: 0.5, outer_momentum: 0.5, quorum: 2, grace: 1200us, ", 3,
      12, {1e-3, 1e-3, 1.55e-3});
  const WorldResult result = repeated(c);
  double theta = 1, v = 0;
  for (int round = 0; round < 6; ++round) {  // 3.1 ms are within 2 + 1.2
    double delta = 0;
    for (int i = 0; i < 3; ++i) delta += (theta - two_steps(theta, i)) / 3;
    v = 0.5 * v + delta;
    theta -= 0.5 * (delta + 0.5 * v);
  }
  for (std::size_t i = 0; i < 3; ++i)
    CHECK(x_of(result, i) == doctest::Approx(theta).epsilon(1e-6));
  // Later than that, so it is given theta and v behind the second meeting.
  const WorldResult given = repeated(
      drawn("diloco", "inner_steps: 2, outer_lr: 0.5, outer_momentum: 0.5, quorum: 2, grace: 1ms, ",
            3, 5, {1e-3, 1e-3, 1.55e-3}));
  for (const char* const field : {"outer.parameters", "outer.optimizer.momentum"})
    CHECK(state_of(given, 2, field) == state_of(given, 0, field));
  CHECK(steps_of(given, 2) == 3);  // the first two, which count for nothing, and the last
}

// The last of three dies at 3 ms, which is known at 8: two meetings wait for its grace in vain.
TEST_CASE("a quorum waits for the dead until their deadline, and not from then on") {
  const AlgorithmCase c =
      drawn("local-sgd",
            "inner_steps: 2, quorum: 2, grace: 1ms, deadline: 4800us, members: [{worker: 2, "
            "dies_after: 3}], ",
            3, 12);
  const WorldResult result = repeated(c);
  double x = after_rounds(1, 3);
  x = after_rounds(5, 2, x);
  for (std::size_t i = 0; i < 2; ++i) CHECK(x_of(result, i) == doctest::Approx(x).epsilon(1e-6));
  CHECK(steps_of(result, 2) == 3);
  // Meetings at 2 and at 4 + 1 ms; the third, come to at 7, learns at 7.8; the others wait no more.
  CHECK(ms(result) == doctest::Approx(7.8 + 6).epsilon(1e-2));
}

// The fast one meets alone and dies, while the slow one is on its way to the first meeting.
TEST_CASE("when all who have met are gone, those that were late meet and go on") {
  const WorldResult result =
      repeated(drawn("diloco",
                     std::string(plain_averaging) +
                         "quorum: 1, deadline: 1ms, members: [{worker: 1, dies_after: 3}], ",
                     2, 6, {5e-3, 1e-3}));
  CHECK(x_of(result, 0) == doctest::Approx(after_rounds(3, 1)).epsilon(1e-6));
  CHECK(steps_of(result, 0) == 6);
  CHECK(steps_of(result, 1) == 3);
}

TEST_CASE("a worker joins behind a meeting of a quorum, and leaves behind one that it is in") {
  const WorldResult result = repeated(
      drawn("diloco",
            std::string(plain_averaging) +
                "quorum: 2, grace: 1ms, members: [{worker: 2, joins_after: 3, leaves_after: 4}], ",
            3, 12));
  CHECK(steps_of(result, 2) == 4);
  double theta = after_rounds(2, 2);
  theta = after_rounds(2, 3, theta);
  CHECK(state_of(result, 2, "outer.parameters")[0] == doctest::Approx(theta).epsilon(1e-6));
  theta = after_rounds(2, 2, theta);
  for (std::size_t i = 0; i < 2; ++i)
    CHECK(x_of(result, i) == doctest::Approx(theta).epsilon(1e-6));
  CHECK(ms(result) == doctest::Approx(12.0).epsilon(1e-2));  // nobody is waited for
}

TEST_CASE("a worker of several ranks has come when all of them have") {
  AlgorithmCase c = drawn("diloco", std::string(plain_averaging) + "workers: 3, quorum: 2, ", 6, 8,
                          {1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 3e-3});
  const WorldResult result = repeated(c);
  for (std::size_t i = 1; i < 4; ++i) CHECK(x_of(result, i) == x_of(result, 0));
  CHECK(x_of(result, 4) == x_of(result, 5));
  CHECK(x_of(result, 4) != x_of(result, 0));
  CHECK(steps_of(result, 4) == steps_of(result, 5));
  CHECK(steps_of(result, 4) < 8);
}

TEST_CASE("whoever is slow, comes or goes, meetings of a quorum end, on cpu as in the simulator") {
  for (int workers = 2; workers <= 7; ++workers)
    for (std::uint64_t seed = 1; seed <= (sim::actors_are_threads ? 2 : 16); ++seed) {
      CAPTURE(workers);
      CAPTURE(seed);
      Random random(seed, Purpose::user, static_cast<std::uint32_t>(workers));
      std::string members;
      std::vector<double> seconds;
      for (int i = 0; i < workers; ++i) {
        seconds.push_back(1e-3 * (1 + 0.5 * static_cast<double>(random.below(5))));
        const std::uint64_t fate = random.below(4);
        if (fate == 0 || i == static_cast<int>(seed) % workers) continue;
        members += std::string(members.empty() ? "" : ", ") + "{worker: " + std::to_string(i);
        const auto step = [&](const char* what, std::uint64_t most) {
          members += std::string(", ") + what + ": " + std::to_string(1 + random.below(most));
        };
        if (fate != 2) step("joins_after", 14);
        if (fate != 1) step(random.below(2) == 0 ? "dies_after" : "leaves_after", 14);
        members += "}";
      }
      const auto most = static_cast<std::uint64_t>(workers - 1);
      const std::string quorum = "quorum: " + std::to_string(1 + random.below(most)) +
                                 ", grace: " + std::to_string(500 * random.below(4)) +
                                 "us, deadline: 2ms, ";
      static const char* const ways[] = {"", "codec: {name: int8}, ", "drop: 0.3, "};
      AlgorithmCase c = drawn(
          "diloco",
          std::string(plain_averaging) + ways[seed % 3] + quorum + "members: [" + members + "], ",
          workers, seed % 2 == 0 ? 12 : 13, seconds);
      repeated(c);
      const WorldResult free = run_in_cpu(swift(c, seed), training_of(c));
      CHECK_MESSAGE(!free.error, why(free));
    }
}

TEST_CASE("quorums that decide nothing are refused, with the reason") {
  const auto refusal = [](const std::string& options, int workers = 3) {
    return error_of([&] { plan_of("{name: diloco, " + options + "}").divide(workers); });
  };
  CHECK(mentions(refusal("quorum: 3"), "leave nobody for whom a meeting would not wait"));
  CHECK(mentions(refusal("quorum: 1", 1), "leave nobody"));
  CHECK(mentions(refusal("quorum: 0"), "quorum"));
  CHECK(mentions(refusal("grace: 1ms"), "it is a quorum that waits for so long"));
  CHECK(mentions(refusal("quorum: 2, members: [{worker: 1, dies_after: 2}]"), "has to be noticed"));
  CHECK(mentions(error_of([] { plan_of("{name: streaming-diloco, quorum: 2}"); }), "quorum"));
}

}  // namespace orrery
