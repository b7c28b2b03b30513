// Training by every synchronous pipeline schedule is training without a pipeline; in both worlds
// the same bits, bytes and peaks.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/parity/results.hpp"
#include "tests/parity/small_transformers.hpp"
#include "tests/parity/worlds_agree.hpp"

namespace orrery {
namespace {

struct ChunkPlan {
  const char* schedule;
  int devices, micro_batches, chunks = 1;
  bool one_pipe = true;  // gradients are summed in the order of the micro-batches
};
// Of six layers.
const std::vector<ChunkPlan> plans{
    {"gpipe", 2, 4},
    {"gpipe", 4, 4},
    {"1f1b", 2, 4},
    {"1f1b", 4, 8},
    {"zb-h1", 2, 4},
    {"zb-h1", 4, 8},
    {"zb-h2", 2, 4},
    {"zb-h2", 4, 8},
    {"interleaved-1f1b", 2, 4, 2},
    {"interleaved-1f1b", 2, 8, 3},
    {"interleaved-1f1b", 3, 6, 2},
    {"zb-v", 2, 4},
    {"zb-v", 3, 8},
    {"v-half", 2, 4},
    {"v-half", 3, 8},
    {"v-min", 2, 4},
    {"v-min", 3, 8},
    {"zb-auto", 2, 4},
    {"zb-auto", 4, 8},
    {"dualpipev", 2, 4},
    {"dualpipev", 3, 8},
    {"chimera", 2, 4, 1, false},
    {"chimera", 4, 8, 1, false},
    {"dualpipe", 2, 4, 1, false},
    {"dualpipe", 4, 8, 1, false},
};

TrainingCase mlp_case(const ChunkPlan& plan) {
  TrainingCase c;
  c.model.layers = 6;
  c.model.hidden = 12;
  c.pipeline = plan.devices;
  c.replica.schedule = plan.schedule;
  c.replica.micro_batches = plan.micro_batches;
  c.replica.chunks = plan.chunks;
  c.steps = 5;
  return c;
}

TrainingCase transformer_case(const ChunkPlan& plan) {
  TransformerShape s = small_gpt();
  s.layers = 6;
  s.learned_positions = s.sequence = 8;
  s.micro_batch = 1;
  s.tied = true;
  TrainingCase c = mlp_case(plan);
  c.transformer = s;
  c.replica.optimizer = {.name = "adamw", .lr = 3e-3};
  c.ddp.clip_norm = 1;
  c.steps = 4;
  return c;
}

TrainingCase without_pipeline(TrainingCase c) {
  c.pipeline = 1;
  c.replica.schedule = "1f1b";
  c.replica.chunks = 1;
  return c;
}

TEST_CASE("an MLP trained by any synchronous schedule is one trained without pipeline") {
  for (const ChunkPlan& plan : plans) {
    CAPTURE(plan.schedule);
    CAPTURE(plan.devices);
    CAPTURE(plan.chunks);
    TrainingCase c = mlp_case(plan);
    c.steps = usual_steps;
    const TrainingCase plain = without_pipeline(c);
    const Trained trained = train_on_cpu(c), expected = train_on_cpu(plain);
    if (plan.one_pipe) {  // the same sums in the same order
      CHECK(trained.losses == expected.losses);
      CHECK(parameters_of(c, trained) == parameters_of(plain, expected));
    } else {
      CHECK(largest_difference(trained.losses, expected.losses) < 6e-6);  // of losses of about 6
      CHECK(largest_difference(parameters_of(c, trained), parameters_of(plain, expected)) < 1e-6);
    }
  }
}

// The table's gradient from the head is added where the head is, and clipping sums norms by rank:
// other orders than on one rank.
TEST_CASE("a tied transformer trained by any synchronous schedule has the losses of one rank") {
  for (const ChunkPlan& plan : plans) {
    CAPTURE(plan.schedule);
    CAPTURE(plan.devices);
    CAPTURE(plan.chunks);
    TrainingCase c = transformer_case(plan);
    c.steps = usual_steps;
    const TrainingCase plain = without_pipeline(c);
    const Trained trained = train_on_cpu(c), expected = train_on_cpu(plain);
    CHECK(largest_relative_difference(trained.losses, expected.losses) < 1e-5);
  }
}

TEST_CASE("a transformer's split backward changes no bit") {
  for (const bool gated : {false, true})
    for (const bool parallel : {false, true}) {
      TrainingCase c = transformer_case({"zb-h1", 2, 4});
      c.transformer->tied = false;
      c.transformer->gated = gated;
      c.transformer->activation = gated ? Activation::silu : Activation::gelu;
      c.transformer->parallel_blocks = parallel;
      c.ddp.clip_norm = 0;
      const TrainingCase plain = without_pipeline(c);
      const Trained trained = train_on_cpu(c), expected = train_on_cpu(plain);
      CHECK(trained.losses == expected.losses);
      CHECK(parameters_of(c, trained) == parameters_of(plain, expected));
    }
}

TEST_CASE("uneven layers, and stages with the embedding or the head alone, change no bit") {
  const TrainingCase plain = without_pipeline(mlp_case({"1f1b", 4, 4}));
  const Trained expected = train_on_cpu(plain);
  for (const char* schedule : {"1f1b", "zb-h1"})
    for (const std::vector<int>& layers :
         std::vector<std::vector<int>>{{0, 3, 3, 0}, {1, 1, 1, 3}, {0, 1, 4, 1}}) {
      TrainingCase c = mlp_case({schedule, 4, 4});
      c.replica.layers = layers;
      const Trained trained = train_on_cpu(c);
      CHECK(trained.losses == expected.losses);
      CHECK(parameters_of(c, trained) == parameters_of(plain, expected));
    }
}

TEST_CASE("recomputation under a split backward changes no bit") {
  TrainingCase c = mlp_case({"zb-h1", 2, 4});
  const Trained kept = train_on_cpu(c);
  c.replica.recompute = Recompute::full;
  CHECK(train_on_cpu(c).state == kept.state);
}

TEST_CASE("any synchronous schedule averages over replicas what one replica sums") {
  for (const ChunkPlan& plan :
       {ChunkPlan{"interleaved-1f1b", 2, 4, 2}, ChunkPlan{"zb-v", 2, 4}, ChunkPlan{"zb-h1", 2, 4},
        ChunkPlan{"chimera", 2, 4}, ChunkPlan{"dualpipe", 2, 4}}) {
    CAPTURE(plan.schedule);
    TrainingCase c = transformer_case(plan);
    TrainingCase plain = without_pipeline(c);
    plain.replica.micro_batches *= 2;
    c.data = 2;
    CHECK(largest_difference(train_on_cpu(c).losses, train_on_cpu(plain).losses) < 6e-6);
  }
}

void check_both(const ChunkPlan& plan) {
  TrainingCase c = transformer_case(plan);
  c.steps = 8;
  check_worlds_agree(c);
}
TEST_CASE("interleaved 1F1B gives the same bits in sim and on cpu") {
  check_both({"interleaved-1f1b", 2, 4, 3});
}
TEST_CASE("ZB-H1 gives the same bits in sim and on cpu") { check_both({"zb-h1", 4, 8}); }
TEST_CASE("ZB-H2 gives the same bits in sim and on cpu") { check_both({"zb-h2", 4, 8}); }
TEST_CASE("ZB-V gives the same bits in sim and on cpu") { check_both({"zb-v", 3, 8}); }
TEST_CASE("Chimera gives the same bits in sim and on cpu") { check_both({"chimera", 4, 8}); }
TEST_CASE("DualPipe gives the same bits in sim and on cpu") { check_both({"dualpipe", 4, 8}); }
TEST_CASE("DualPipeV gives the same bits in sim and on cpu") { check_both({"dualpipev", 2, 4}); }
TEST_CASE("two pipelines under ZB-H1 give the same bits in sim and on cpu") {
  TrainingCase c = transformer_case({"zb-h1", 2, 4});
  c.data = 2;
  check_worlds_agree(c);
}

// Every boundary between stages on two devices carries one activation and one gradient for each of
// its pipe's micro-batches.
TEST_CASE("edges carry every boundary's activations and gradients, once per micro-batch") {
  for (const ChunkPlan& plan : plans) {
    CAPTURE(plan.schedule);
    CAPTURE(plan.devices);
    TrainingCase c = mlp_case(plan);
    c.steps = 2;
    PipelineShape shape{plan.devices, plan.micro_batches};
    shape.chunks = plan.chunks;
    const auto schedule = make_schedule(plan.schedule, shape);
    std::int64_t boundaries = 0;
    for (int pipe = 0; pipe < schedule->pipes; ++pipe)
      for (int stage = 1; stage < schedule->stages; ++stage)
        if (schedule->holder(stage, pipe).device != schedule->holder(stage - 1, pipe).device)
          ++boundaries;
    const std::int64_t message = 4 * std::int64_t{c.model.micro_batch} * c.model.hidden;
    std::int64_t activations = 0, gradients = 0;
    for (const RankReport& rank : train_on_cpu(c).report.ranks)
      for (const ChannelReport& channel : rank.channels) {
        if (channel.use.kind != Collective::send) continue;
        (channel.lane == "activations" ? activations : gradients) += channel.use.bytes.value;
      }
    const std::int64_t expected =
        c.steps * boundaries * message * plan.micro_batches / schedule->pipes;
    CHECK(activations == expected);
    CHECK(gradients == expected);
  }
}

}  // namespace
}  // namespace orrery
