// One program, two worlds: the same bits, the same bytes on every channel, the same memory peak.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/parity/results.hpp"
#include "tests/parity/worlds_agree.hpp"

namespace orrery {
namespace {

TrainingCase mlp_case(int data, int pipeline, const char* schedule = "1f1b") {
  TrainingCase c;
  c.data = data;
  c.pipeline = pipeline;
  c.replica.schedule = schedule;
  return c;
}

TEST_CASE("training on one rank gives the same bits in sim and on cpu") {
  check_worlds_agree(mlp_case(1, 1));
}
TEST_CASE("DDP on two ranks gives the same bits in sim and on cpu") {
  check_worlds_agree(mlp_case(2, 1));
}
TEST_CASE("DDP on four ranks gives the same bits in sim and on cpu") {
  check_worlds_agree(mlp_case(4, 1));
}
TEST_CASE("1F1B on two stages gives the same bits in sim and on cpu") {
  check_worlds_agree(mlp_case(1, 2));
}
TEST_CASE("1F1B on four stages gives the same bits in sim and on cpu") {
  check_worlds_agree(mlp_case(1, 4));
}
TEST_CASE("GPipe on four stages gives the same bits in sim and on cpu") {
  check_worlds_agree(mlp_case(1, 4, "gpipe"));
}
TEST_CASE("two pipelines of two stages give the same bits in sim and on cpu") {
  check_worlds_agree(mlp_case(2, 2));
}

TEST_CASE("clipping by the global norm of a pipeline gives the same bits in sim and on cpu") {
  TrainingCase c = mlp_case(2, 2);
  c.ddp.clip_norm = 0.5;
  check_worlds_agree(c);
}

TEST_CASE("bf16 parameters with fp32 masters give the same bits in sim and on cpu") {
  TrainingCase c = mlp_case(2, 1);
  c.model.dtype = Dtype::bf16;
  check_worlds_agree(c);
}

TEST_CASE("momentum and full recomputation give the same bits in sim and on cpu") {
  TrainingCase c = mlp_case(1, 2);
  c.replica.recompute = Recompute::full;
  c.replica.optimizer = {.name = "momentum", .lr = 0.05, .nesterov = true};
  check_worlds_agree(c);
}

TEST_CASE("DDP with n ranks of batch b follows one rank of batch n b") {
  const Trained whole = [] {
    TrainingCase one = mlp_case(1, 1);
    one.replica.micro_batches = 8;
    return train_on_cpu(one);
  }();
  for (int ranks : {2, 4}) {
    TrainingCase c = mlp_case(ranks, 1);
    c.replica.micro_batches = 8 / ranks;
    CHECK(largest_relative_difference(train_on_cpu(c).losses, whole.losses) < 1e-6);
  }
}

TEST_CASE("pipelined training is unpipelined training, bit for bit") {
  TrainingCase plain = mlp_case(1, 1);
  plain.steps = 10;
  const Trained expected = train_on_cpu(plain);
  for (const char* schedule : {"gpipe", "1f1b"})
    for (int stages : {2, 3, 4}) {
      TrainingCase c = mlp_case(1, stages, schedule);
      c.steps = 10;
      const Trained trained = train_on_cpu(c);
      CAPTURE(schedule);
      CAPTURE(stages);
      CHECK(trained.losses == expected.losses);
      CHECK(parameters_of(c, trained) == parameters_of(plain, expected));
    }
}

TEST_CASE("recomputation changes no bit and lowers the peak") {
  TrainingCase c = mlp_case(1, 1);
  c.steps = 5;
  c.model.micro_batch = 64;
  const Trained kept = train_on_cpu(c);
  c.replica.recompute = Recompute::full;
  const Trained recomputed = train_on_cpu(c);
  CHECK(kept.losses == recomputed.losses);
  CHECK(kept.state == recomputed.state);
  CHECK(recomputed.report.ranks[0].peak < kept.report.ranks[0].peak);
  CHECK(recomputed.report.ranks[0].matrix_flops > kept.report.ranks[0].matrix_flops);
}

TEST_CASE(
    "a run stopped after any step and resumed ends in the same bits, also in the other world") {
  for (const auto& [data, pipeline] : {std::pair{2, 1}, std::pair{1, 2}}) {
    TrainingCase c = mlp_case(data, pipeline);
    c.steps = 6;
    const Trained straight = train_on_cpu(c);
    for (int stop = 1; stop < 6; ++stop) {
      TrainingCase part = c;
      part.steps = stop;
      const Trained first = train_on_cpu(part);
      part.steps = 6;
      CHECK(train_on_cpu(part, &first.state).state == straight.state);
      if (stop == 3 && data == 2) CHECK(train_in_sim(part, &first.state).state == straight.state);
    }
  }
}

TEST_CASE("the loss of a step is the same whatever the parallel plan") {
  TrainingCase c = mlp_case(1, 1);
  c.steps = 3;
  c.replica.micro_batches = 8;
  const Trained one = train_on_cpu(c);
  TrainingCase plan = mlp_case(2, 2);
  plan.steps = 3;
  const Trained both = train_on_cpu(plan);
  CHECK(largest_relative_difference(both.losses, one.losses) < 1e-6);
}

TEST_CASE("the arena holds what the ledger says, but for its rounding to 64 bytes") {
  const TrainingCase c = mlp_case(1, 1);
  const Trained cpu = train_on_cpu(c);
  const std::int64_t ledger = cpu.report.ranks[0].peak.value,
                     arena = cpu.report.arena_high_water.value;
  CHECK(arena >= ledger);
  CHECK(arena - ledger < 64 * 64);  // at most 64 tensors are alive at the peak
}

// The cost block of algorithms/ddp.cpp.
TEST_CASE(
    "DDP sends 2 (n-1)/n of its gradient bytes per step, however many micro-batches there are") {
  for (int micro_batches : {1, 4}) {
    TrainingCase c = mlp_case(4, 1);
    c.steps = 3;
    c.replica.micro_batches = micro_batches;
    const Trained trained = train_on_cpu(c);
    const std::int64_t gradients =
        trained.report.ranks[0].peak_by_label[static_cast<std::size_t>(Label::gradients)].value;
    std::int64_t sent = 0;
    std::uint64_t calls = 0;
    for (const ChannelReport& channel : trained.report.ranks[0].channels) {
      CHECK(channel.use.kind == Collective::all_reduce);
      sent += channel.use.bytes.value;
      calls += channel.use.calls;
    }
    CHECK(std::llabs(sent - 3 * 2 * 3 * gradients / 4) <= static_cast<std::int64_t>(calls));
    CHECK(calls > 3);  // several buckets
  }
}

}  // namespace
}  // namespace orrery
