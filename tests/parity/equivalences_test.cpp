// Algorithms that are special cases of each other. Where both sides round differently, the numbers
// are short binary fractions, on which neither rounds: then bits are equal too.
#include <doctest/doctest.h>

#include "tests/parity/results.hpp"
#include "tests/support/quadratic.hpp"

namespace orrery {
namespace {

// Few steps on few bits: every sum and product is exact in fp32.
AlgorithmCase short_fractions(const std::string& algorithm, std::int64_t steps = 4) {
  AlgorithmCase c;
  c.algorithm = algorithm;
  c.steps = steps;
  c.micro_batches = 1;
  Quadratic q;
  q.elements = 6;
  q.blocks = 2;
  q.curvature = [](int rank, std::size_t j) {
    return j % 2 == 0 ? 1.0F : 0.25F * static_cast<float>(1 + rank);
  };
  q.target = [](int rank, std::size_t j) {
    return static_cast<float>(rank) - 0.5F * static_cast<float>(j);
  };
  c.model = quadratic(q);
  return c;
}

const std::string inner_sgd = "inner: {optimizer: {name: sgd, lr: 0.5}}";

}  // namespace

TEST_CASE("local SGD with H = 1 is DDP with SGD") {
  CHECK(weights_on_cpu_after(
            short_fractions("{name: local-sgd, inner_steps: 1, " + inner_sgd + "}")) ==
        weights_on_cpu_after(short_fractions("{name: ddp, optimizer: {name: sgd, lr: 0.5}}")));
}

TEST_CASE("DiLoCo with H = 1 and an outer SGD of rate 1 is DDP with SGD") {
  CHECK(weights_on_cpu_after(short_fractions(
            "{name: diloco, inner_steps: 1, outer_lr: 1, outer_momentum: 0, " + inner_sgd + "}")) ==
        weights_on_cpu_after(short_fractions("{name: ddp, optimizer: {name: sgd, lr: 0.5}}")));
}

TEST_CASE("DiLoCo with an outer SGD of rate 1 is local SGD") {
  CHECK(weights_on_cpu_after(short_fractions(
            "{name: diloco, inner_steps: 2, outer_lr: 1, outer_momentum: 0, " + inner_sgd + "}")) ==
        weights_on_cpu_after(
            short_fractions("{name: local-sgd, inner_steps: 2, " + inner_sgd + "}")));
}

TEST_CASE("SlowMo without momentum and with rate 1 is local SGD") {
  CHECK(weights_on_cpu_after(short_fractions(
            "{name: slowmo, inner_steps: 2, slow_lr: 1, slow_momentum: 0, " + inner_sgd + "}")) ==
        weights_on_cpu_after(
            short_fractions("{name: local-sgd, inner_steps: 2, " + inner_sgd + "}")));
}

TEST_CASE("at a constant rate SlowMo is DiLoCo with plain outer momentum") {
  CHECK(
      weights_on_cpu_after(short_fractions(
          "{name: slowmo, inner_steps: 2, slow_lr: 0.5, slow_momentum: 0.5, " + inner_sgd + "}")) ==
      weights_on_cpu_after(short_fractions("{name: diloco, inner_steps: 2, outer_lr: 0.5, "
                                           "outer_momentum: 0.5, nesterov: false, " +
                                           inner_sgd + "}")));
}

TEST_CASE("Streaming DiLoCo with one fragment, no overlap and no mixing is DiLoCo, to the bit") {
  AlgorithmCase streaming, plain;
  streaming.algorithm =
      "{name: streaming-diloco, inner_steps: 3, fragment_layers: 0, overlap: 0, mixing: 0, "
      "outer_lr: 0.7, codec: {name: int8}}";
  plain.algorithm = "{name: diloco, inner_steps: 3, codec: {name: int8}}";
  CHECK(weights_on_cpu_after(streaming) == weights_on_cpu_after(plain));
}

TEST_CASE("a worker of several replicas is trained by DDP inside it") {
  // Two islands of two, against two islands of one that see both halves of the data.
  AlgorithmCase pairs =
      short_fractions("{name: local-sgd, workers: 2, inner_steps: 2, " + inner_sgd + "}");
  const std::vector<float> weights = weights_on_cpu_after(pairs);
  AlgorithmCase all =
      short_fractions("{name: local-sgd, workers: 1, inner_steps: 2, " + inner_sgd + "}");
  CHECK(weights != weights_on_cpu_after(all));
  AlgorithmCase ddp = short_fractions("{name: ddp, optimizer: {name: sgd, lr: 0.5}}");
  CHECK(weights_on_cpu_after(all) == weights_on_cpu_after(ddp));
}

TEST_CASE("workers that divide parameters or optimizer state learn what others learn") {
  for (const std::string outer :
       {"local-sgd", "slowmo", "diloco",
        "streaming-diloco, fragment_layers: 1, overlap: 1, codec: {name: fp32}"})
    for (const std::string inner :
         {"fsdp", "fsdp, reshard_after_forward: false", "fsdp, shard: 1",
          "zero, stage: 3, reduce: last", "zero, bucket: 3kB", "zero, stage: 2, bucket: 3kB"}) {
      CAPTURE(outer);
      CAPTURE(inner);
      const auto losses = [&](const std::string& name) {
        AlgorithmCase c;
        c.algorithm =
            "{name: " + outer + ", inner_steps: 2, workers: 2, inner: {name: " + name + "}}";
        const WorldResult result = run_in_cpu(setup_of(c), training_of(c));
        REQUIRE_MESSAGE(!result.error, why(result));
        return losses_of(result, 0, c.steps);
      };
      const std::vector<double> whole = losses("ddp"), divided = losses(inner);
      for (std::size_t step = 0; step < whole.size(); ++step)
        CHECK(divided[step] == doctest::Approx(whole[step]).epsilon(1e-5));
    }
}

TEST_CASE("workers of local SGD agree after a meeting and differ before it") {
  for (const std::int64_t steps : {4, 5}) {
    const AlgorithmCase c =
        short_fractions("{name: local-sgd, inner_steps: 4, " + inner_sgd + "}", steps);
    const WorldResult result = run_in_cpu(setup_of(c), training_of(c));
    const bool agree =
        state_of(result, 0, "replica.parameters") == state_of(result, 1, "replica.parameters");
    CHECK(agree == (steps == 4));
  }
}

TEST_CASE("local SGD on unlike workers ends at its biased point, and DiLoCo at the same") {
  // At the fixed point sum_i (1 - (1 - lr a_i)^H) (x - b_i) = 0.
  double last_bias = 0;
  for (const int h : {2, 10, 50}) {
    const double lr = 0.1;
    double numerator = 0, denominator = 0, plain_numerator = 0, plain_denominator = 0;
    for (int i = 0; i < 4; ++i) {
      const double a = 0.25 * (1 + i), b = i - 1.0, w = 1 - std::pow(1 - lr * a, h);
      numerator += w * b;
      denominator += w;
      plain_numerator += a * b;
      plain_denominator += a;
    }
    Quadratic q;
    q.curvature = [](int rank, std::size_t) { return 0.25F * static_cast<float>(1 + rank); };
    q.target = [](int rank, std::size_t) { return static_cast<float>(rank) - 1.0F; };
    for (const std::string name : {"local-sgd", "diloco"}) {
      AlgorithmCase c;
      c.algorithm = "{name: " + name + ", inner_steps: " + std::to_string(h) +
                    ", inner: {optimizer: {name: sgd, lr: 0.1}}}";
      c.steps = 50 * std::max(h, 6);
      c.steps -= c.steps % h;
      c.micro_batches = 1;
      c.model = quadratic(q);
      CHECK(weights_on_cpu_after(c)[0] == doctest::Approx(numerator / denominator).epsilon(2e-5));
    }
    const double bias = std::fabs(numerator / denominator - plain_numerator / plain_denominator);
    CHECK(bias > last_bias);
    last_bias = bias;
  }
}

}  // namespace orrery
