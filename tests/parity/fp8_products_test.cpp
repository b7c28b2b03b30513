// Training with products in fp8: the same bits in both worlds, and losses near those of bf16.
#include <doctest/doctest.h>

#include <cmath>

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
TransformerShape llama(Products products) {
  TransformerShape s = as_llama(small_gpt());
  s.hidden = 40;
  s.heads = 4;
  s.head_size = 12;
  s.ffn = 72;
  return narrow(s, products);
}

TrainingCase case_of(const TransformerShape& shape, int data = 1, int pipeline = 1,
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

double mean_of_last(const std::vector<double>& losses) {
  const std::size_t count = std::min<std::size_t>(10, losses.size());
  double sum = 0;
  for (std::size_t i = losses.size() - count; i < losses.size(); ++i) sum += losses[i];
  return sum / static_cast<double>(count);
}

TEST_CASE("products in fp8 with a scale per tensor give the same bits in sim and on cpu") {
  check_worlds_agree(case_of(llama(Products::fp8_tensor), 2));
}
TEST_CASE("products in fp8 with scales per block give the same bits in sim and on cpu") {
  check_worlds_agree(case_of(llama(Products::fp8_block), 2));
}
TEST_CASE("products in mxfp8 give the same bits in sim and on cpu") {
  check_worlds_agree(case_of(llama(Products::mxfp8), 2));
}
TEST_CASE("a GPT with biases in fp8 under a split backward has the same bits in sim and on cpu") {
  check_worlds_agree(case_of(narrow(small_gpt(), Products::fp8_tensor), 1, 2, "zb-h1"));
}
TEST_CASE("products in fp8 of shared layers give the same bits in sim and on cpu") {
  check_worlds_agree(case_of(narrow(shared_llama(), Products::fp8_tensor),
                             {.tensor = 2, .sequence_parallel = true}));
}

// The bound is several times what was seen, and a tenth of what the model learns.
TEST_CASE("50 steps with products in fp8 end near those of bf16") {
  const Trained bf16 = train_on_cpu(case_of(llama(Products::as_stored)));
  const double first = bf16.losses.front(), expected = mean_of_last(bf16.losses);
  for (const Products products : all_kinds) {
    const Trained fp8 = train_on_cpu(case_of(llama(products)));
    CAPTURE(static_cast<int>(products));
    CHECK(fp8.losses != bf16.losses);
    CHECK(std::fabs(mean_of_last(fp8.losses) - expected) < 0.1 * (first - expected));
    MESSAGE(mean_of_last(fp8.losses) << " and " << expected << " from " << first);
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
    const Trained bf16 = train_on_cpu(case_of(narrow(shape, Products::as_stored)));
    const double first = bf16.losses.front(), expected = mean_of_last(bf16.losses);
    for (const Products products : all_kinds) {
      const Trained fp8 = train_on_cpu(case_of(narrow(shape, products)));
      CHECK(fp8.losses != bf16.losses);
      CHECK(std::fabs(mean_of_last(fp8.losses) - expected) < 0.1 * (first - expected));
    }
  }
}

// The largest magnitudes are kept from the forward, computed again, and left for later passes.
TEST_CASE("recomputation and a backward in two parts change no bit of products in fp8") {
  TrainingCase c = case_of(llama(Products::fp8_tensor));
  c.ddp.clip_norm.reset();
  c.steps = 5;
  const Trained expected = train_on_cpu(c);
  c.replica.recompute = Recompute::full;
  CHECK(train_on_cpu(c).state == expected.state);
  for (const char* schedule : {"1f1b", "zb-h1"}) {
    TrainingCase staged = case_of(llama(Products::fp8_tensor), 1, 2, schedule);
    staged.ddp.clip_norm.reset();
    staged.steps = 5;
    const Trained trained = train_on_cpu(staged);
    CHECK(trained.losses == expected.losses);
    CHECK(parameters_of(staged, trained) == parameters_of(c, expected));
  }
}

// Numbers in 8 bits exist while a product runs; what is kept besides is the largest magnitudes.
TEST_CASE("products in fp8 have the memory of bf16, and some elements for each layer") {
  const auto peak = [](Products products) {
    TrainingCase c = case_of(llama(products));
    c.steps = 1;
    return train_on_cpu(c).report.ranks[0].peak.value;
  };
  const std::int64_t bf16 = peak(Products::as_stored), layers = llama(Products::mxfp8).layers;
  CHECK(peak(Products::fp8_block) == bf16);
  CHECK(peak(Products::mxfp8) == bf16);
  CHECK(peak(Products::fp8_tensor) - bf16 <= 2 * (16 * layers + 8));
  CHECK(peak(Products::fp8_tensor) > bf16);
}

TEST_CASE("values of fp8 products of which every second runs again are refused") {
  TransformerShape shape = llama(Products::fp8_tensor);
  shape.recompute_every_second = true;
  CHECK_THROWS_WITH_AS(make_transformer(shape, training_text()),
                       doctest::Contains("values of fp8 products of which every second runs again"),
                       Error);
}

}  // namespace
}  // namespace orrery
