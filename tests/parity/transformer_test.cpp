// Transformers with values: one program, two worlds, the same bits.
#include <doctest/doctest.h>

#include "tests/parity/small_transformers.hpp"
#include "tests/parity/worlds_agree.hpp"

namespace orrery {
namespace {

// Grouped heads.
TransformerShape llama() {
  TransformerShape s = as_llama(small_gpt());
  s.heads = 4;
  s.kv_heads = 2;
  s.head_size = 4;
  return s;
}

// GPT-NeoX style: as GPT-2's but attention and MLP side by side and a rotary embedding.
TransformerShape neox() {
  TransformerShape s = small_gpt();
  s.rotary = s.parallel_blocks = true;
  s.learned_positions = 0;
  return s;
}

TrainingCase transformer_case(const TransformerShape& shape, int data, int pipeline,
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

TEST_CASE("a GPT on one rank gives the same bits in sim and on cpu") {
  check_worlds_agree(transformer_case(small_gpt(), 1, 1));
}
TEST_CASE("a GPT under DDP on two ranks gives the same bits in sim and on cpu") {
  check_worlds_agree(transformer_case(small_gpt(), 2, 1));
}
TEST_CASE("a GPT under DDP on four ranks gives the same bits in sim and on cpu") {
  check_worlds_agree(transformer_case(small_gpt(), 4, 1));
}
TEST_CASE("a GPT under 1F1B on two stages gives the same bits in sim and on cpu") {
  check_worlds_agree(transformer_case(small_gpt(), 1, 2));
}
TEST_CASE("a GPT under 1F1B on four stages gives the same bits in sim and on cpu") {
  check_worlds_agree(transformer_case(small_gpt(), 1, 4));
}
TEST_CASE("a GPT-NeoX on one rank gives the same bits in sim and on cpu") {
  check_worlds_agree(transformer_case(neox(), 1, 1));
}
TEST_CASE("a GPT-NeoX under DDP on two ranks gives the same bits in sim and on cpu") {
  check_worlds_agree(transformer_case(neox(), 2, 1));
}
TEST_CASE("a GPT-NeoX under DDP on four ranks gives the same bits in sim and on cpu") {
  check_worlds_agree(transformer_case(neox(), 4, 1));
}
TEST_CASE("a GPT-NeoX under 1F1B on two stages gives the same bits in sim and on cpu") {
  check_worlds_agree(transformer_case(neox(), 1, 2));
}
TEST_CASE("a GPT-NeoX under 1F1B on four stages gives the same bits in sim and on cpu") {
  check_worlds_agree(transformer_case(neox(), 1, 4));
}
TEST_CASE("a Llama on one rank gives the same bits in sim and on cpu") {
  check_worlds_agree(transformer_case(llama(), 1, 1));
}
TEST_CASE("a Llama under DDP on two ranks gives the same bits in sim and on cpu") {
  check_worlds_agree(transformer_case(llama(), 2, 1));
}
TEST_CASE("a Llama under DDP on four ranks gives the same bits in sim and on cpu") {
  check_worlds_agree(transformer_case(llama(), 4, 1));
}
TEST_CASE("a Llama under 1F1B on two stages gives the same bits in sim and on cpu") {
  check_worlds_agree(transformer_case(llama(), 1, 2));
}
TEST_CASE("a Llama under 1F1B on four stages gives the same bits in sim and on cpu") {
  check_worlds_agree(transformer_case(llama(), 1, 4));
}
TEST_CASE("a Llama in bf16 with a tied embedding gives the same bits in sim and on cpu") {
  TransformerShape shape = llama();
  shape.dtype = Dtype::bf16;
  shape.tied = true;
  check_worlds_agree(transformer_case(shape, 2, 1));
}

TEST_CASE("a transformer's recomputation changes no bit and lowers the peak") {
  for (TransformerShape shape : {small_gpt(), llama(), neox()}) {
    shape.micro_batch = 16;
    TrainingCase c = transformer_case(shape, 1, 1);
    c.steps = 5;
    const Trained kept = train_on_cpu(c);
    c.replica.recompute = Recompute::full;
    const Trained recomputed = train_on_cpu(c);
    CHECK(kept.losses == recomputed.losses);
    CHECK(kept.state == recomputed.state);
    CHECK(recomputed.report.ranks[0].peak < kept.report.ranks[0].peak);
  }
}

TEST_CASE("a pipelined transformer trains as an unpipelined one, bit for bit") {
  for (const TransformerShape& shape : {small_gpt(), llama(), neox()}) {
    // The norm that clips is summed in another order over stages.
    TrainingCase plain = transformer_case(shape, 1, 1);
    plain.ddp.clip_norm.reset();
    plain.steps = 10;
    const Trained expected = train_on_cpu(plain);
    for (const char* schedule : {"gpipe", "1f1b"}) {
      TrainingCase c = transformer_case(shape, 1, 2, schedule);
      c.ddp.clip_norm.reset();
      c.steps = 10;
      const Trained trained = train_on_cpu(c);
      CHECK(trained.losses == expected.losses);
      CHECK(parameters_of(c, trained) == parameters_of(plain, expected));
    }
  }
}

TEST_CASE("the first loss of a transformer is that of a guess, and a text needs 256 tokens") {
  for (const TransformerShape& shape : {small_gpt(), llama(), neox()}) {
    TrainingCase c = transformer_case(shape, 1, 1);
    c.steps = 1;
    CHECK(train_on_cpu(c).losses[0] == doctest::Approx(std::log(256.0)).epsilon(0.02));
    c.transformer->vocabulary = 255;
    CHECK_THROWS_AS(train_on_cpu(c), Error);
  }
}

}  // namespace
}  // namespace orrery
