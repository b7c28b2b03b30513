// DiLoCo whose outer gradients get lost.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/parity/both_worlds.hpp"
#include "tests/support/quadratic.hpp"

namespace orrery {
namespace {

WorldResult trained(const std::string& drop, std::int64_t steps, int workers, const Quadratic& q,
                    double inner_lr, double outer_lr, double momentum = 0) {
  AlgorithmCase c;
  c.algorithm = "{name: diloco, inner_steps: 2, outer_momentum: " + std::to_string(momentum) +
                ", outer_lr: " + std::to_string(outer_lr) + ", drop: " + drop +
                ", inner: {optimizer: {name: sgd, lr: " + std::to_string(inner_lr) + "}}}";
  c.replicas = workers;
  c.steps = steps;
  c.micro_batches = 1;
  c.model = quadratic(q);
  return in_both_worlds(c);
}

}  // namespace

// After one round: who took part has theta, the mean over those; who did not is where it was.
TEST_CASE("an outer gradient that gets lost is left out of the mean, and its worker goes on") {
  constexpr int workers = 8;
  Quadratic q;
  q.target = [](int rank, std::size_t) { return static_cast<float>(rank); };
  const WorldResult result = trained("0.5", 2, workers, q, 0.25, 1);
  const auto own = [](int i) {  // two steps from 1 towards i
    double x = 1;
    for (int h = 0; h < 2; ++h) x -= 0.25 * (x - i);
    return x;
  };
  double sum = 0;
  int lost = 0;
  std::vector<double> x;
  for (int i = 0; i < workers; ++i) {
    x.push_back(static_cast<double>(
        state_of(result, static_cast<std::size_t>(i), "replica.parameters")[0]));
    const bool alone = std::fabs(x.back() - own(i)) < 1e-6;
    lost += alone ? 1 : 0;
    if (!alone) sum += own(i);
  }
  REQUIRE(lost > 0);
  REQUIRE(lost < workers);
  for (int i = 0; i < workers; ++i)
    if (std::fabs(x[static_cast<std::size_t>(i)] - own(i)) >= 1e-6)
      CHECK(x[static_cast<std::size_t>(i)] ==
            doctest::Approx(sum / (workers - lost)).epsilon(1e-6));
}

// One worker, whose inner steps take theta_i from x to 0.81 x. It goes on where its outer gradient
// gets lost, and the outer momentum waits.
TEST_CASE("where nobody's outer gradient arrives there is no outer step, of its momentum neither") {
  Quadratic q;
  q.start = 4;
  constexpr int rounds = 12;
  const WorldResult result = trained("0.5", 2 * rounds, 1, q, 0.1, 0.7, 0.9);
  const Philox draws(setup_of(AlgorithmCase{.algorithm = "{name: diloco}"}).options.seed,
                     Purpose::order);
  double theta = 4, theta_i = 4, v = 0;
  int lost_on_the_way = 0;
  for (int round = 1; round <= rounds; ++round) {
    theta_i *= 0.81;
    if (draws.uniform(static_cast<std::uint64_t>(round)) < 0.5) {
      lost_on_the_way += v != 0 ? 1 : 0;
      continue;
    }
    const double delta = theta - theta_i;
    v = 0.9 * v + delta;
    theta -= 0.7 * (delta + 0.9 * v);
    theta_i = theta;
  }
  REQUIRE(lost_on_the_way > 1);
  CHECK(state_of(result, 0, "outer.parameters")[0] == doctest::Approx(theta).epsilon(1e-5));
  CHECK(state_of(result, 0, "replica.parameters")[0] == doctest::Approx(theta_i).epsilon(1e-5));
}

TEST_CASE("DiLoCo that loses half of its outer gradients still ends at the optimum, 0 loses none") {
  Quadratic q;
  q.start = 4;
  const WorldResult half = trained("0.5", 200, 4, q, 0.1, 0.7);
  for (std::size_t i = 0; i < 4; ++i)
    CHECK(std::fabs(state_of(half, i, "replica.parameters")[0]) < 1e-3F);
  const WorldResult none = trained("0", 8, 4, q, 0.1, 0.7), all = trained("1", 8, 4, q, 0.1, 0.7);
  const float x0 = state_of(none, 0, "replica.parameters")[0];
  for (std::size_t i = 1; i < 4; ++i) CHECK(state_of(none, i, "replica.parameters")[0] == x0);
  CHECK(state_of(all, 0, "outer.parameters")[0] == 4);  // nobody's arrives: no outer step
}

}  // namespace orrery
