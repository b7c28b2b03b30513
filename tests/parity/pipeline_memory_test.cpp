// What a pipeline's stages keep of what they exchange, where they keep it until the next step.
#include <doctest/doctest.h>

#include "tests/parity/inside_replica.hpp"

namespace orrery {
namespace {

// Bytes of activations that each rank still has when its steps have been issued.
std::vector<std::int64_t> activations_left(const TrainingCase& c) {
  constexpr std::int64_t more = 1 << 22;  // than at any time before
  const RunReport report = make_cpu_world(training_options(c))->run([&](Rank& rank) {
    Replica replica(rank, c.make(training_text()), c.replica_options());
    const std::unique_ptr<Algorithm> algorithm = c.algorithm(replica);
    Progress progress(rank, {c.steps, c.global_batch()});
    train(*algorithm, progress);
    rank.allocate(replica.compute(), Label::activations, more, Dtype::uint8, {.name = "more"});
  });
  std::vector<std::int64_t> left;
  for (std::size_t rank = 0; rank < report.ranks.size(); ++rank)
    left.push_back(
        report.ranks[rank].peak_by_label[static_cast<std::size_t>(Label::activations)].value -
        more);
  return left;
}

// Four stages of one layer, four micro-batches. `logits`: bytes of those of a micro-batch.
void check_left(TrainingCase c, std::int64_t between, std::int64_t logits) {
  c.pipeline = 4;
  c.steps = 2;
  for (const char* schedule : {"gpipe", "1f1b", "zb-h1"}) {
    CAPTURE(schedule);
    c.replica.schedule = schedule;
    TrainingCase received = c, all = c;
    received.replica.keeps_received = all.replica.keeps_received = all.replica.keeps_sent = true;
    if (logits > 0) received.transformer->returns_logits = all.transformer->returns_logits = true;
    const std::vector<std::int64_t> none = activations_left(c);
    const std::int64_t n = 4 * between;
    std::vector<std::int64_t> expected{n, 3 * n, 3 * n, 2 * n + 4 * logits};
    for (std::size_t rank = 0; rank < 4; ++rank) expected[rank] += none[rank];
    CHECK(activations_left(received) == expected);
    for (std::size_t rank = 0; rank < 3; ++rank) expected[rank] += n;
    CHECK(activations_left(all) == expected);
  }
}

TEST_CASE("stages that keep what they exchange have what the cost block says after each step") {
  const TrainingCase c;
  check_left(c, std::int64_t{c.model.micro_batch} * c.model.hidden * 4, 0);
}
TEST_CASE("the last stage keeps the logits that it returns, too") {
  TrainingCase c;
  c.transformer = as_llama(small_gpt());
  c.transformer->layers = 4;
  for (const LossMemory loss : {LossMemory::in_place, LossMemory::apart, LossMemory::eager}) {
    c.transformer->loss = loss;
    const std::int64_t tokens = c.transformer->tokens(), width = size_of(c.transformer->dtype);
    check_left(c, tokens * c.transformer->hidden * width,
               tokens * c.transformer->vocabulary * width);
  }
}

TrainingCase keeping() {
  TransformerShape shape = shared_llama();
  shape.loss = LossMemory::eager;
  shape.returns_logits = true;
  TrainingCase c = case_of(shape, {.tensor = 2, .pipeline = 2, .sequence_parallel = true});
  c.replica.schedule = "interleaved-1f1b";
  c.replica.chunks = 2;
  c.replica.keeps_received = c.replica.keeps_sent = true;
  return c;
}

TEST_CASE("stages that keep what they exchange give the same bits in sim and on cpu") {
  check_worlds_agree(keeping());
}
TEST_CASE("what stages keep changes no bit") {
  TrainingCase c = keeping();
  const Trained kept = train_on_cpu(c);
  c.transformer->returns_logits = false;
  c.replica.keeps_received = c.replica.keeps_sent = false;
  const Trained given_up = train_on_cpu(c);
  CHECK(kept.losses == given_up.losses);
  CHECK(kept.state == given_up.state);
}

}  // namespace
}  // namespace orrery
