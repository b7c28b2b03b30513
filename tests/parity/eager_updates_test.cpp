// Streaming DiLoCo with eager updates, against its equations by hand.
#include <doctest/doctest.h>

#include <numeric>

#include "tests/parity/results.hpp"
#include "tests/support/quadratic.hpp"

namespace orrery {
namespace {

constexpr double inner_lr = 0.1, outer_lr = 0.5, momentum = 0.9;

// A model of blocks of one parameter each.
AlgorithmCase scalar(int workers, const std::string& name, const std::string& more = "",
                     int blocks = 1) {
  AlgorithmCase c;
  c.algorithm = "{name: " + name +
                ", inner_steps: 3, outer_lr: 0.5, outer_momentum: 0.9, codec: {name: fp32}, "
                "inner: {optimizer: {name: sgd, lr: 0.1}}" +
                more + "}";
  c.replicas = workers;
  c.steps = 15;
  c.micro_batches = 1;
  Quadratic q;
  q.elements = static_cast<std::size_t>(blocks);
  q.blocks = blocks;
  q.curvature = [](int rank, std::size_t) { return 0.5F + 0.25F * static_cast<float>(rank); };
  q.target = [](int rank, std::size_t) { return static_cast<float>(rank) - 1.0F; };
  c.model = quadratic(q);
  return c;
}

const std::string eager = ", eager: true";

// Where the k workers are after so many inner steps, of a fragment that meets after step t when
// t = offset mod 3.
std::vector<double> by_hand(std::size_t k, int offset, int steps) {
  std::vector<double> x(k, 1), theta(k, 1), v(k), own(k), last(k);
  double mean = 0;
  for (int t = 1; t <= steps; ++t) {
    for (std::size_t m = 0; m < k; ++m)
      x[m] -=
          inner_lr * (0.5 + 0.25 * static_cast<double>(m)) * (x[m] - (static_cast<double>(m) - 1));
    if (t % 3 != offset) continue;
    for (std::size_t m = 0; m < k; ++m) {
      own[m] = theta[m] - x[m];
      const auto n = static_cast<double>(k);
      const double gradient = own[m] / n + (mean - last[m] / n);
      v[m] = momentum * v[m] + gradient;
      x[m] = theta[m] -= outer_lr * (gradient + momentum * v[m]);
    }
    mean = std::accumulate(own.begin(), own.end(), 0.0) / static_cast<double>(k);
    last = own;
  }
  return x;
}

}  // namespace

TEST_CASE("eager updates take a worker's own outer gradient at once, the others' a meeting later") {
  const std::vector<double> x = by_hand(4, 0, 15);
  for (std::size_t m = 0; m < 4; ++m)
    CHECK(weights_on_cpu_after(scalar(4, "streaming-diloco", eager), m)[0] ==
          doctest::Approx(x[m]).epsilon(1e-6));
  CHECK(std::fabs(x[0] - x[3]) > 0.01);  // they have outer parameters of their own
}

TEST_CASE("eager fragments meet in turn, each with the last mean of its own") {
  AlgorithmCase c =
      scalar(4, "streaming-diloco", ", fragment_layers: 1, pattern: sequential" + eager, 3);
  for (const std::int64_t steps : {14, 15, 16}) {
    c.steps = steps;
    for (const std::size_t rank : {std::size_t{0}, std::size_t{3}}) {
      const std::vector<float> weights = weights_on_cpu_after(c, rank);
      for (int p = 0; p < 3; ++p)
        CHECK(weights[static_cast<std::size_t>(p)] ==
              doctest::Approx(by_hand(4, p, static_cast<int>(steps))[rank]).epsilon(1e-6));
    }
  }
}

TEST_CASE("eager updates of a single worker are DiLoCo, to the bit") {
  CHECK(weights_on_cpu_after(scalar(1, "streaming-diloco", eager)) ==
        weights_on_cpu_after(scalar(1, "diloco")));
}

TEST_CASE("an eager meeting has no overlap to choose") {
  CHECK_THROWS_AS(plan_of("{name: streaming-diloco, eager: true, overlap: 2}"), ConfigError);
  CHECK_THROWS_AS(plan_of("{name: streaming-diloco, inner_steps: 5, overlap: 6}"), ConfigError);
  plan_of("{name: streaming-diloco, inner_steps: 5, eager: true, overlap: 5}");
}

}  // namespace orrery
