// Compressed gradients: what they are special cases of, and how close they come to the optimum of
// unlike workers.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/parity/results.hpp"
#include "tests/support/quadratic.hpp"

namespace orrery {
namespace {

constexpr std::size_t dimensions = 64;

// 4 workers that want different points, under curvatures from 0.25 to 1.
AlgorithmCase unlike_quadratics(const std::string& algorithm, std::int64_t steps) {
  Quadratic q;
  q.elements = dimensions;
  q.columns = 8;
  q.start = 0;
  q.curvature = [](int, std::size_t j) {
    return 0.25F + 0.75F * static_cast<float>(j) / dimensions;
  };
  q.target = [](int rank, std::size_t j) {
    return static_cast<float>(Philox(5, Purpose::user, static_cast<std::uint32_t>(rank)).normal(j));
  };
  AlgorithmCase c;
  c.algorithm = algorithm;
  c.steps = steps;
  c.micro_batches = 1;
  c.model = quadratic(q);
  return c;
}

// The distance to the optimum of the mean loss; all workers have the same curvatures, so that is
// the mean of their points.
double distance(const AlgorithmCase& c) {
  const std::vector<float> x = weights_after(c);
  double sum = 0;
  for (std::size_t j = 0; j < dimensions; ++j) {
    double optimum = 0;
    for (std::uint32_t rank = 0; rank < 4; ++rank)
      optimum += static_cast<float>(Philox(5, Purpose::user, rank).normal(j)) / 4.0;
    sum += (x[j] - optimum) * (x[j] - optimum);
  }
  return std::sqrt(sum);
}

std::string with_sgd(const std::string& head, double lr) {
  return "{" + head + ", optimizer: {name: sgd, lr: " + std::to_string(lr) + "}}";
}

}  // namespace

TEST_CASE("with error feedback 4 of 64 numbers a step come near the optimum, without they do not") {
  const double with =
      distance(unlike_quadratics(with_sgd("name: topk, ratio: 0.0625", 0.02), 6000));
  const double without = distance(
      unlike_quadratics(with_sgd("name: topk, ratio: 0.0625, error_feedback: false", 0.02), 6000));
  CHECK(with < 0.25);
  CHECK(without > 4 * with);
}

TEST_CASE("PowerSGD of rank 1 converges on unlike workers, to what fp32 leaves of its errors") {
  // Each worker's error grows by what it differs from the mean, so after 400 steps fp32 has lost
  // about 400 x 2^-24 of a gradient.
  CHECK(distance(unlike_quadratics(with_sgd("name: powersgd, rank: 1", 0.5), 400)) < 2e-4);
}

TEST_CASE("what keeps everything is plain SGD on the mean gradient") {
  const std::vector<float> plain = weights_after(unlike_quadratics(with_sgd("name: ddp", 0.1), 20));
  for (const std::string all :
       {"name: topk, ratio: 1", "name: powersgd, rank: 8", "name: dgc, ratio: 1, momentum: 0"})
    CHECK(largest_difference(weights_after(unlike_quadratics(with_sgd(all, 0.1), 20)), plain) <
          1e-6);
}

TEST_CASE("DGC that sends everything has momentum masked away, and a warm-up sends more") {
  // With all places masked u and v are zero after each step: no momentum is left.
  const std::vector<float> plain = weights_after(unlike_quadratics(with_sgd("name: ddp", 0.1), 20));
  CHECK(largest_difference(weights_after(unlike_quadratics(
                               with_sgd("name: dgc, ratio: 1, momentum: 0.9", 0.1), 20)),
                           plain) < 1e-6);
  CHECK(distance(unlike_quadratics(with_sgd("name: dgc, ratio: 0.03", 0.002), 6000)) < 0.5);
}

TEST_CASE("DeMo that sends all coefficients is sign SGD on the mean gradient") {
  const AlgorithmCase c = unlike_quadratics(with_sgd("name: demo, kept: 64", 0.125), 1);
  const std::vector<float> x = weights_after(c);
  for (std::size_t j = 0; j < dimensions; ++j) {
    double mean = 0;
    for (std::uint32_t rank = 0; rank < 4; ++rank) mean -= Philox(5, Purpose::user, rank).normal(j);
    if (std::fabs(mean) > 1e-4) CHECK(x[j] == (mean > 0 ? -0.125F : 0.125F));
  }
  const WorldResult result = run_in_sim(setup_of(c), training_of(c));
  for (const float m : state_of(result, 1, "momentum")) CHECK(m == 0);
}

TEST_CASE("all replicas of DeMo have the same parameters and different momenta") {
  const AlgorithmCase c = unlike_quadratics(with_sgd("name: demo, kept: 4", 0.01), 10);
  const WorldResult result = run_in_sim(setup_of(c), training_of(c));
  CHECK(state_of(result, 0, "replica.parameters") == state_of(result, 3, "replica.parameters"));
  CHECK(state_of(result, 0, "momentum") != state_of(result, 3, "momentum"));
}

TEST_CASE("1-bit Adam is Adam until its variance is frozen, and goes on to learn after it") {
  const std::string adam = ", optimizer: {name: adamw, lr: 0.01, epsilon: 0.1}}";
  const std::vector<float> plain = weights_after(unlike_quadratics("{name: ddp" + adam, 30));
  CHECK(weights_after(unlike_quadratics("{name: onebit-adam, freeze_step: 30" + adam, 30)) ==
        plain);
  const double frozen =
      distance(unlike_quadratics("{name: onebit-adam, freeze_step: 60" + adam, 60));
  CHECK(distance(unlike_quadratics("{name: onebit-adam, freeze_step: 60" + adam, 400)) <
        0.5 * frozen);
}

TEST_CASE("QSGD is unbiased: many small steps end where SGD's do") {
  CHECK(distance(unlike_quadratics(with_sgd("name: qsgd, levels: 15, bucket: 64", 0.01), 1500)) <
        0.15);
}

TEST_CASE("PowerSGD refuses a model without matrices, which it would send whole") {
  AlgorithmCase c = unlike_quadratics(with_sgd("name: powersgd", 0.1), 1);
  Quadratic q;
  q.elements = 8;
  c.model = quadratic(q);
  const WorldResult result = run_in_sim(setup_of(c), training_of(c));
  REQUIRE(result.error.has_value());
  CHECK(result.error->category() == Category::config);
}

TEST_CASE("compressing for nobody is refused, and so is a second momentum") {
  CHECK_THROWS_AS(plan_of("{name: topk}").divide(1), Error);
  CHECK_THROWS_AS(plan_of("{name: dgc, optimizer: {name: momentum}}"), ConfigError);
  CHECK_THROWS_AS(plan_of("{name: demo, optimizer: {name: adamw}}"), ConfigError);
  CHECK_THROWS_AS(plan_of("{name: onebit-adam, optimizer: {name: sgd}}"), ConfigError);
}

}  // namespace orrery
