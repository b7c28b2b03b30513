// Experts that a bias balances (algorithms/models/expert_balance.hpp): one rank's biases and losses
// whoever holds the experts, bits in both worlds.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "algorithms/models/expert_balance.hpp"
#include "tests/parity/inside_replica.hpp"

namespace orrery {
namespace {

constexpr double rate = 0x1p-7;  // sums of it are exact
constexpr std::size_t experts = 4;

// DeepSeek style: routing by sigmoids, a shared expert. No token is dropped.
TransformerShape balanced(double balance_rate = rate) {
  TransformerShape s = shared_llama();
  s.layers = 2;
  s.experts = static_cast<int>(experts);
  s.experts_per_token = 2;
  s.expert_ffn = 12;
  s.shared_ffn = 8;
  s.capacity = 4;
  s.router = Router::sigmoid;
  s.balance_rate = balance_rate;
  return s;
}

// Of each layer's experts, on one rank: the biases, then the tokens that were not yet reckoned.
std::vector<float> state_of(const Trained& trained, std::size_t rank) {
  const auto& bytes = trained.state.at(rank).fields.at("replica.state");
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

}  // namespace

TEST_CASE("balanced experts follow one rank in every product of plans") {
  check_follows_one_rank(balanced(),
                         {{.data = 2, .expert = 2},
                          {.tensor = 2, .data = 2, .sequence_parallel = true, .expert = 2},
                          {.context = 2, .data = 2},
                          {.data = 2, .pipeline = 2, .expert = 2}});
}
TEST_CASE("balanced experts give the same bits in sim and on cpu") {
  TrainingCase c = case_of(balanced(), {.tensor = 2, .data = 4, .expert = 2});
  c.transformer->dtype = Dtype::bf16;
  c.replica.optimizer.lr = 3e-3;
  check_worlds_agree(c);
}
TEST_CASE("balanced experts under FSDP and a pipeline give the same bits in sim and on cpu") {
  TrainingCase c = case_of(balanced(), {.data = 2, .pipeline = 2});
  c.shard = 2;
  c.zero.emplace();
  check_worlds_agree(c);
}

TEST_CASE("biases are whole multiples of the rate, alike on all ranks and on one") {
  TrainingCase c = case_of(balanced(), {.data = 4, .expert = 2});
  c.steps = 12;
  TrainingCase one = case_of(balanced(), {});
  one.steps = 12;
  const Trained trained = train_on_cpu(c);
  const std::vector<float> expected = state_of(train_on_cpu(one), 0);
  REQUIRE(expected.size() == 2 * 2 * experts);
  for (std::size_t rank = 0; rank < 4; ++rank) CHECK(state_of(trained, rank) == expected);
  for (std::size_t layer = 0; layer < 2; ++layer) {
    bool moved = false;
    for (std::size_t e = 0; e < experts; ++e) {
      const double steps = expected[2 * experts * layer + e] / rate;
      CHECK(steps == std::floor(steps));
      CHECK(std::fabs(steps) <= 12);
      moved = moved || steps != 0;
      CHECK(expected[2 * experts * layer + experts + e] == 0);  // all tokens are reckoned
    }
    CHECK(moved);
  }
}

TEST_CASE("a bias of experts changes what is learned, recomputation does not") {
  const auto losses = [](double balance_rate, Recompute recompute) {
    TrainingCase c = case_of(balanced(balance_rate), {.data = 2, .expert = 2});
    c.steps = 8;
    c.replica.recompute = recompute;
    return train_on_cpu(c).losses;
  };
  const std::vector<double> moved = losses(0.25, Recompute::none);
  CHECK(moved != losses(0, Recompute::none));
  CHECK(moved == losses(0.25, Recompute::full));
}

// Algorithm 1 of the paper: of four experts one has twice the mean, one the mean, two the half.
TEST_CASE("after a step the bias of who has more than the mean falls by the rate") {
  std::vector<ParameterSpec> state;
  ExpertBalance balance(4, 0.5, state);
  REQUIRE(state.size() == 2);
  WorldOptions options;
  options.grid.set(Axis::replicate, 2);
  options.real_values = true;
  options.bodies = &cpu_bodies();
  make_cpu_world(options)->run([&](Rank& rank) {
    ExpertBalance mine = balance;
    mine.open(rank);
    Stream& compute = rank.stream("compute");
    const Tensor s = rank.allocate(compute, Label::parameters, 8, Dtype::fp32, {});
    compute.launch(rank.prepare(Kernel::fill(8, 1, Dtype::fp32)), {s});
    // The second rank has counted one token for every expert; with the first's it is 8, 4, 2, 2.
    const Tensor more = mine.counts(s);
    if (rank.coordinate(Axis::replicate) == 0) {
      compute.launch(rank.prepare(Kernel::fill(1, 7, Dtype::fp32)), {more.slice(0, 1)});
      compute.launch(rank.prepare(Kernel::fill(1, 3, Dtype::fp32)), {more.slice(1, 2)});
    }
    mine.end_step(compute, s);
    compute.after(rank.stream("balance").record());
    rank.wait(compute.record());
    CHECK(rank.read(s) == std::vector<double>{0.5, 1, 1.5, 1.5, 0, 0, 0, 0});
  });
}

TEST_CASE("balanced experts are refused where a step has no end, or two pipes have each a part") {
  for (const char* schedule : {"pipedream-2bw", "chimera"}) {
    TrainingCase c = case_of(balanced(), {.pipeline = 2});
    c.replica.schedule = schedule;
    c.steps = 1;
    CAPTURE(schedule);
    CHECK_THROWS_WITH_AS(train_on_cpu(c), doctest::Contains("experts that a bias balances under"),
                         Error);
  }
}

}  // namespace orrery
