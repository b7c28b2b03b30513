// Training with products in fp8: the same bits in both worlds, and losses near those of bf16.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#include "backend/fp8.hpp"
#include "tests/parity/inside_replica.hpp"
#include "tests/parity/small_transformers.hpp"

namespace orrery {
namespace {

constexpr Products all_kinds[] = {Products::fp8_tensor, Products::fp8_block, Products::mxfp8};

// Depths that blocks do not divide.
TransformerShape narrow(TransformerShape s, Products products) {
  s.dtype = Dtype::bf16;
  s.products = products;
  return s;
}
TransformerShape fp8_llama(Products products) {
  TransformerShape s = as_llama(small_gpt());
  s.hidden = 40;
  s.heads = 4;
  s.head_size = 12;
  s.ffn = 72;
  return narrow(s, products);
}

TrainingCase fp8_case(const TransformerShape& shape, int data = 1, int pipeline = 1,
                      const char* schedule = "1f1b") {
  TrainingCase c;
  c.data = data;
  c.pipeline = pipeline;
  c.transformer = shape;
  c.replica.schedule = schedule;
  c.replica.micro_batches = 4;
  c.replica.optimizer = {.name = "adamw", .lr = 3e-3};
  c.ddp.clip_norm = 1;
  return c;
}

// Looks whether the largest magnitudes that products are given are those of their operands.
class CheckedBodies final : public KernelBodies {
 public:
  void run(const Kernel& kernel, std::span<const View> views) const override {
    if (kernel.op == Op::gemm && fp8_of(kernel).scaling == Fp8Scaling::tensor)
      for (const std::size_t i : {0, 1}) {
        const View& largest = views[fp8_largest_a + i];
        if (largest.data == nullptr) continue;
        ++looked;
        float most = 0;
        for (std::int64_t j = 0; j < views[i].elements; ++j)
          most = std::max(most, std::fabs(number(views[i], j)));
        if (most != number(largest, 0)) ++wrong;
      }
    cpu_bodies().run(kernel, views);
  }
  mutable std::atomic<int> looked{0}, wrong{0};

 private:
  static float number(const View& view, std::int64_t i) {
    return from_bf16(static_cast<const std::uint16_t*>(view.data)[i]);
  }
};

double mean_of_last(const std::vector<double>& losses) {
  const std::size_t count = std::min<std::size_t>(10, losses.size());
  double sum = 0;
  for (std::size_t i = losses.size() - count; i < losses.size(); ++i) sum += losses[i];
  return sum / static_cast<double>(count);
}

TEST_CASE("products in fp8 with a scale per tensor give the same bits in sim and on cpu") {
  check_worlds_agree(fp8_case(fp8_llama(Products::fp8_tensor), 2));
}
TEST_CASE("products in fp8 with scales per block give the same bits in sim and on cpu") {
  check_worlds_agree(fp8_case(fp8_llama(Products::fp8_block), 2));
}
TEST_CASE("products in mxfp8 give the same bits in sim and on cpu") {
  check_worlds_agree(fp8_case(fp8_llama(Products::mxfp8), 2));
}
TEST_CASE("a GPT with biases in fp8 under a split backward has the same bits in sim and on cpu") {
  check_worlds_agree(fp8_case(narrow(small_gpt(), Products::fp8_tensor), 1, 2, "zb-h1"));
}
TEST_CASE("products in fp8 of shared layers give the same bits in sim and on cpu") {
  check_worlds_agree(case_of(narrow(shared_llama(), Products::fp8_tensor),
                             {.tensor = 2, .sequence_parallel = true}));
}

// Trainings that differ by rounding drift apart; which one is ahead at the end differs by seed.
TEST_CASE("50 steps with products in fp8 follow those of bf16, and end near them") {
  const Trained bf16 = train_on_cpu(fp8_case(fp8_llama(Products::as_stored)));
  const double first = bf16.losses.front(), expected = mean_of_last(bf16.losses);
  for (const Products products : all_kinds) {
    const Trained fp8 = train_on_cpu(fp8_case(fp8_llama(products)));
    CAPTURE(static_cast<int>(products));
    CHECK(fp8.losses != bf16.losses);
    for (std::size_t i = 0; i < std::min<std::size_t>(20, bf16.losses.size()); ++i)
      CHECK(std::fabs(fp8.losses[i] - bf16.losses[i]) < 0.02 * bf16.losses[i]);
    CHECK(std::fabs(mean_of_last(fp8.losses) - expected) < 0.1 * (first - expected));
  }
}

TEST_CASE("experts and latent attention in fp8 train as in bf16, nearly") {
  TransformerShape experts = shared_llama(), latent = shared_llama();
  experts.experts = 4;
  experts.experts_per_token = 2;
  experts.expert_ffn = 12;
  experts.shared_ffn = 8;
  experts.capacity = 4;
  latent.heads = latent.kv_heads = 4;
  latent.head_size = 6;
  latent.rope_head = 2;
  latent.v_head = 4;
  latent.kv_rank = 5;
  latent.q_rank = 7;
  for (const TransformerShape& shape : {experts, latent}) {
    const Trained bf16 = train_on_cpu(fp8_case(narrow(shape, Products::as_stored)));
    const double first = bf16.losses.front(), expected = mean_of_last(bf16.losses);
    for (const Products products : all_kinds) {
      const Trained fp8 = train_on_cpu(fp8_case(narrow(shape, products)));
      CHECK(fp8.losses != bf16.losses);
      CHECK(std::fabs(mean_of_last(fp8.losses) - expected) < 0.1 * (first - expected));
    }
  }
}

TEST_CASE("products in fp8 take the largest magnitudes of their own operands") {
  for (const char* schedule : {"1f1b", "zb-h1"}) {
    TrainingCase c = fp8_case(fp8_llama(Products::fp8_tensor), 1, 2, schedule);
    c.steps = 2;
    const CheckedBodies bodies;
    WorldOptions options = training_options(c);
    options.bodies = &bodies;
    std::vector<Checkpoint> state;
    make_cpu_world(options)->run(training(c, state, nullptr));
    // Two of each of three products of four matrices, in each layer and micro-batch.
    CHECK(bodies.looked == 2 * 3 * 4 * c.transformer->layers * c.replica.micro_batches * c.steps);
    CHECK(bodies.wrong == 0);
  }
}

// The largest magnitudes are kept from the forward, computed again, and left for later passes.
TEST_CASE("recomputation and a backward in two parts change no bit of products in fp8") {
  TrainingCase c = fp8_case(fp8_llama(Products::fp8_tensor));
  c.ddp.clip_norm.reset();
  c.steps = 5;
  const Trained expected = train_on_cpu(c);
  c.replica.recompute = Recompute::full;
  CHECK(train_on_cpu(c).state == expected.state);
  for (const char* schedule : {"1f1b", "zb-h1"}) {
    TrainingCase staged = fp8_case(fp8_llama(Products::fp8_tensor), 1, 2, schedule);
    staged.ddp.clip_norm.reset();
    staged.steps = 5;
    CHECK(train_on_cpu(staged).losses == expected.losses);
  }
}

// Numbers in 8 bits exist while a product runs; what is kept besides is the largest magnitudes.
TEST_CASE("products in fp8 have the memory of bf16, and some elements for each layer") {
  const auto peak = [](Products products) {
    TrainingCase c = fp8_case(fp8_llama(products));
    c.steps = 1;
    return train_on_cpu(c).report.ranks[0].peak.value;
  };
  const std::int64_t bf16 = peak(Products::as_stored), layers = fp8_llama(Products::mxfp8).layers;
  CHECK(peak(Products::fp8_block) == bf16);
  CHECK(peak(Products::mxfp8) == bf16);
  CHECK(peak(Products::fp8_tensor) - bf16 <= 2 * (16 * layers + 8));
  CHECK(peak(Products::fp8_tensor) > bf16);
}

// Tokens of two or four tensor ranks that are gathered in fp8.
TrainingCase gathered_in_fp8(TransformerShape shape, const Plan& plan) {
  shape = narrow(std::move(shape), Products::fp8_tensor);
  shape.gathers_fp8 = true;
  return case_of(shape, plan);
}

TEST_CASE("tokens gathered in fp8 give the same bits in sim and on cpu") {
  check_worlds_agree(gathered_in_fp8(
      shared_llama(), {.tensor = 2, .data = 2, .pipeline = 2, .sequence_parallel = true}));
}

// A product rounds what it reads to the numbers that were sent.
TEST_CASE("gathering tokens in fp8 changes no bit of a training with a scale per tensor") {
  for (const TransformerShape& shape : {shared_gpt(), shared_llama(), shared_neox()})
    for (const int tensor : {2, 4}) {
      TrainingCase c = gathered_in_fp8(shape, {.tensor = tensor, .sequence_parallel = true});
      c.steps = 5;
      const CheckedBodies bodies;
      WorldOptions options = training_options(c);
      options.bodies = &bodies;
      std::vector<Checkpoint> state;
      const Trained in_fp8 =
          finish(std::move(state), make_cpu_world(options)->run(training(c, state, nullptr)));
      CHECK(bodies.looked > 0);
      CHECK(bodies.wrong == 0);
      c.transformer->gathers_fp8 = false;
      CHECK(train_on_cpu(c).losses == in_fp8.losses);
      c.transformer->gathers_fp8 = true;
      c.replica.recompute = Recompute::full;
      CHECK(train_on_cpu(c).losses == in_fp8.losses);
    }
}

// The cost in algorithms/models/fp8_gather.cpp, of one rank in whole bytes.
TEST_CASE("tokens gathered in fp8 are sent as a byte each, and a number for the scale") {
  for (const int t : {2, 4}) {
    TrainingCase c = gathered_in_fp8(shared_llama(), {.tensor = t, .sequence_parallel = true});
    c.steps = 3;
    const Trained trained = train_on_cpu(c);
    const std::int64_t tokens = 2 * 16, n = tokens * 16, layers = 4, passes = 3 * 4;
    const std::int64_t narrow = 6 * layers * passes, whole = 3 * passes;
    for (const RankReport& rank : trained.report.ranks) {
      Sent sent = sent_over(rank, "tensor");
      using Use = std::pair<std::int64_t, std::int64_t>;
      CHECK(sent["activations all_gather"] ==
            Use{narrow + whole, (t - 1) * (narrow * n + whole * 2 * n) / t});
      CHECK(sent["activations all_reduce"] ==
            Use{narrow + 2 * passes, 2 * (t - 1) * (narrow * 4 + passes * 3 * tokens * 4) / t});
    }
  }
}

TEST_CASE("tokens are gathered in fp8 for products in fp8 with a scale per tensor only") {
  TransformerShape shape = *gathered_in_fp8(shared_llama(), {}).transformer;
  shape.tensor = 2;
  shape.sequence_parallel = true;
  CHECK(shape.indivisible().empty());
  for (const Products products : {Products::as_stored, Products::fp8_block, Products::mxfp8}) {
    shape.products = products;
    CHECK(shape.indivisible().size() == 1);
  }
  shape.products = Products::fp8_tensor;
  shape.sequence_parallel = false;
  CHECK(shape.indivisible().size() == 1);
}

TEST_CASE("values of fp8 products of which every second runs again are refused") {
  TransformerShape shape = fp8_llama(Products::fp8_tensor);
  shape.recompute_every_second = true;
  CHECK_THROWS_WITH_AS(make_transformer(shape, training_text()),
                       doctest::Contains("values of fp8 products of which every second runs again"),
                       Error);
}

}  // namespace
}  // namespace orrery
