// ZeRO's stages and FSDP: the same training as DDP's and one rank's, in both worlds, with the bytes
// of the cost blocks of algorithms/zero.cpp and algorithms/fsdp.cpp.
#include "algorithms/zero.hpp"

#include <cmath>
#include <functional>

#include "tests/parity/worlds_agree.hpp"

namespace orrery {
namespace {

TrainingCase on_ranks(int data, const ZeroOptions& zero) {
  TrainingCase c;
  c.data = c.shard = data;
  c.zero = zero;
  c.steps = 6;
  return c;
}

ZeroOptions stage(int number) { return {.stage = number}; }

// FSDP with each way to live with the parameters between passes.
ZeroOptions kept_after_forward() {
  ZeroOptions zero;
  zero.gather.after_forward = Reshard::no;
  return zero;
}
ZeroOptions kept_for_the_step() {
  ZeroOptions zero = kept_after_forward();
  zero.gather.after_backward = false;
  return zero;
}
ZeroOptions per_parameter() {
  ZeroOptions zero;
  zero.gather.per_parameter = true;
  return zero;
}
// Over all of 2 x 2 ranks, kept by pairs.
ZeroOptions kept_by_groups() {
  ZeroOptions zero;
  zero.over = {Axis::shard, Axis::replicate};
  zero.gather.after_forward = Reshard::to_group;
  zero.gather.group = Axis::shard;
  return zero;
}

TransformerShape tiny_transformer() {
  return {.layers = 4,
          .hidden = 8,
          .heads = 2,
          .kv_heads = 1,
          .head_size = 4,
          .ffn = 12,
          .vocabulary = 256,
          .tied = true,
          .sequence = 5,
          .micro_batch = 1,
          .dtype = Dtype::fp32};
}

TrainingCase transformer_on(int data, int shard, int pipeline, const ZeroOptions& zero) {
  TrainingCase c = on_ranks(data, zero);
  c.shard = shard;
  c.pipeline = pipeline;
  c.transformer = tiny_transformer();
  c.transformer->tied = pipeline == 1;
  c.replica.micro_batches = 8 / data;
  c.replica.optimizer = {.name = "adamw", .lr = 3e-3};
  c.steps = usual_steps;
  return c;
}

void check_agree(TrainingCase c) {
  c.steps = usual_steps;
  check_worlds_agree(c);
}

void check_near(const std::vector<double>& losses, const std::vector<double>& expected,
                double relative) {
  REQUIRE(losses.size() == expected.size());
  for (std::size_t i = 0; i < losses.size(); ++i)
    CHECK(std::fabs(losses[i] - expected[i]) <= relative * expected[i]);
}

std::vector<double> losses_of_one_rank(bool tied, double clip_norm = 0) {
  TrainingCase one = transformer_on(1, 1, 1, {});
  one.zero.reset();
  one.transformer->tied = tied;
  if (clip_norm > 0) one.ddp.clip_norm = clip_norm;
  return train_on_cpu(one).losses;
}

}  // namespace

TEST_CASE("ZeRO's stage 1 gives the same bits and peaks in sim and on cpu") {
  TrainingCase c = on_ranks(4, stage(1));
  c.zero->group = Bytes(8000);
  check_agree(c);
}
TEST_CASE("ZeRO's stage 2 gives the same bits and peaks in sim and on cpu") {
  check_agree(on_ranks(4, stage(2)));
}
TEST_CASE("FSDP on three ranks, of which groups do not divide, agrees in sim and on cpu") {
  TrainingCase c = on_ranks(3, stage(3));
  c.zero->clip_norm = 0.5;
  check_agree(c);
}
TEST_CASE("FSDP with 16-bit parameters and gradients on the wire agrees in sim and on cpu") {
  TrainingCase c = on_ranks(4, stage(3));
  c.model.dtype = Dtype::bf16;
  c.zero->communication = Dtype::bf16;
  c.zero->reduce_each = true;
  check_agree(c);
}
TEST_CASE("FSDP that computes in bf16 from fp32 shards agrees in sim and on cpu") {
  TrainingCase c = on_ranks(2, stage(3));
  c.model.dtype = Dtype::bf16;
  c.replica.parameter_dtype = Dtype::fp32;
  check_agree(c);
}
TEST_CASE("FSDP that copies parameters out of a buffer agrees in sim and on cpu") {
  check_agree(on_ranks(4, per_parameter()));
}
TEST_CASE(
    "FSDP that copies parameters out of a buffer, kept under a pipeline, agrees in both worlds") {
  TrainingCase c = transformer_on(2, 2, 2, per_parameter());
  c.replica.schedule = "zb-h1";
  check_agree(c);
}
TEST_CASE("hybrid sharding agrees in sim and on cpu") {
  TrainingCase c = on_ranks(4, stage(3));
  c.shard = 2;
  check_agree(c);
}
TEST_CASE("parameters kept by groups between the passes agree in sim and on cpu") {
  TrainingCase c = on_ranks(4, kept_by_groups());
  c.shard = 2;
  check_agree(c);
}
TEST_CASE("parameters kept for a pipeline's step agree in sim and on cpu") {
  TrainingCase c = on_ranks(2, kept_for_the_step());
  c.pipeline = 2;
  check_agree(c);
}
TEST_CASE("a tied embedding under FSDP with recomputation agrees in sim and on cpu") {
  TrainingCase c = transformer_on(2, 2, 1, stage(3));
  c.replica.recompute = Recompute::full;
  check_agree(c);
}

TEST_CASE("every stage is DDP bit for bit when gradients are reduced once, in the same order") {
  for (const int ranks : {2, 4}) {
    TrainingCase ddp = on_ranks(ranks, {});
    ddp.zero.reset();
    const Trained expected = train_on_cpu(ddp);
    for (const ZeroOptions& zero : {stage(1), stage(2), stage(3), kept_after_forward(),
                                    kept_for_the_step(), per_parameter()}) {
      CAPTURE(ranks);
      CAPTURE(zero.stage);
      CHECK(train_on_cpu(on_ranks(ranks, zero)).losses == expected.losses);
    }
    TrainingCase groups = on_ranks(ranks, kept_by_groups());
    groups.shard = ranks / 2;
    CHECK(train_on_cpu(groups).losses == expected.losses);
  }
}

TEST_CASE("50 steps of a transformer under every stage have one rank's losses to 1e-5") {
  const std::vector<double> tied = losses_of_one_rank(true), untied = losses_of_one_rank(false);
  ZeroOptions each = stage(3);
  each.reduce_each = true;
  for (const ZeroOptions& zero : {stage(1), stage(2), stage(3), each, kept_for_the_step()}) {
    CAPTURE(zero.stage);
    check_near(train_on_cpu(transformer_on(4, 4, 1, zero)).losses, tied, 1e-5);
    check_near(train_on_cpu(transformer_on(4, 2, 1, zero)).losses, tied, 1e-5);
    check_near(train_on_cpu(transformer_on(4, 2, 2, zero)).losses, untied, 1e-5);
  }
}

TEST_CASE("stages under a pipeline that divides the backward have one rank's losses to 1e-5") {
  const std::vector<double> untied = losses_of_one_rank(false);
  ZeroOptions freed = stage(3);
  freed.gather.after_forward = Reshard::yes;
  freed.gather.after_backward = true;
  for (const ZeroOptions& zero : {stage(1), stage(2), stage(3), freed}) {
    CAPTURE(zero.stage);
    TrainingCase c = transformer_on(4, 2, 2, zero);
    c.replica.schedule = "zb-h1";
    check_near(train_on_cpu(c).losses, untied, 1e-5);
  }
}

TEST_CASE("the global norm is the same however parameters are divided") {
  const std::vector<double> clipped = losses_of_one_rank(true, 0.05);
  CHECK(std::fabs(clipped.back() - losses_of_one_rank(true).back()) > 1e-3);  // it does clip
  for (int number : {1, 2, 3}) {
    ZeroOptions zero = stage(number);
    zero.clip_norm = 0.05;
    check_near(train_on_cpu(transformer_on(4, 4, 1, zero)).losses, clipped, 1e-5);
    check_near(train_on_cpu(transformer_on(4, 2, 1, zero)).losses, clipped, 1e-5);
  }
}

TEST_CASE("a sharded run stopped after any step and resumed ends in the same bits") {
  for (const ZeroOptions& zero : {stage(1), stage(2), stage(3), kept_for_the_step()}) {
    TrainingCase c = on_ranks(2, zero);
    c.steps = 4;
    const Trained straight = train_on_cpu(c);
    for (int stop = 1; stop < 4; ++stop) {
      TrainingCase part = c;
      part.steps = stop;
      const Trained first = train_on_cpu(part);
      CHECK(train_on_cpu(c, &first.state).state == straight.state);
    }
  }
}

namespace {

// Shards of groups of one block each, put together again.
std::vector<std::byte> whole_parameters(const Trained& trained, const Model& model) {
  std::vector<std::byte> whole;
  std::size_t at = 0;
  for (const auto& block : model.blocks) {
    const std::size_t size = sizeof(float) * static_cast<std::size_t>(block->parameter_elements());
    const std::size_t ranks = trained.state.size();
    const std::size_t part = (size / sizeof(float) + ranks - 1) / ranks * sizeof(float);
    const std::size_t end = whole.size() + size;
    for (const Checkpoint& rank : trained.state) {
      const auto& bytes = rank.fields.at("replica.parameters");
      whole.insert(whole.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at),
                   bytes.begin() + static_cast<std::ptrdiff_t>(at + part));
    }
    for (std::size_t i = end; i < whole.size(); ++i) CHECK(whole[i] == std::byte{0});  // padding
    whole.resize(end);
    at += part;
  }
  return whole;
}

}  // namespace

TEST_CASE("initial and trained parameters are the same bits in shards, padding stays zero") {
  for (const std::int64_t steps : {std::int64_t{0}, std::int64_t{3}}) {
    TrainingCase ddp = on_ranks(3, {});
    ddp.zero.reset();
    ddp.steps = steps;
    const Trained expected = train_on_cpu(ddp);
    TrainingCase c = on_ranks(3, stage(3));
    c.steps = steps;
    CHECK(whole_parameters(train_on_cpu(c), c.make(nullptr)) ==
          expected.state[0].fields.at("replica.parameters"));
  }
}

// ---- Traffic
// -----------------------------------------------------------------------------------------------------------------

namespace {

// Elements of the groups of one block each, padded for n ranks; `which` picks blocks.
std::int64_t padded(const Model& model, int n, const std::function<bool(std::size_t)>& which) {
  std::int64_t sum = 0;
  for (std::size_t b = 0; b < model.blocks.size(); ++b)
    if (which(b)) sum += (model.blocks[b]->parameter_elements() + n - 1) / n * n;
  return sum;
}

std::int64_t sent(const RankReport& rank, const std::string& lane, Collective kind) {
  std::int64_t bytes = 0;
  for (const ChannelReport& c : rank.channels)
    if (c.lane == lane && c.use.kind == kind) bytes += c.use.bytes.value;
  return bytes;
}

}  // namespace

TEST_CASE("stages send 2, 2, 3 (n-1)/n of the parameters per step, FSDP less what stays") {
  constexpr int n = 4, micro_batches = 3;
  for (const auto& [zero, gathers] : {std::pair{stage(1), 0},
                                      {stage(2), 0},
                                      {stage(3), micro_batches},
                                      {per_parameter(), micro_batches},
                                      {kept_after_forward(), micro_batches},
                                      {kept_for_the_step(), 1}}) {
    for (const bool each : {false, true}) {
      if (each && zero.stage == 1) continue;
      TrainingCase c = on_ranks(n, zero);
      c.replica.micro_batches = micro_batches;
      c.zero->reduce_each = each;
      c.steps = 2;
      const Model model = c.make(nullptr);
      const std::size_t last = model.blocks.size() - 1;
      const auto share = [](std::int64_t elements) { return 4 * elements * (n - 1) / n; };
      const std::int64_t all = share(padded(model, n, [](std::size_t) { return true; }));
      // The last group stays from each forward to its backward, and the first from the backward to
      // the next micro-batch's forward.
      const std::int64_t middle =
          share(padded(model, n, [&](std::size_t b) { return b > 0 && b < last; }));
      const std::int64_t ends[] = {
          share(padded(model, n, [](std::size_t b) { return b == 0; })),
          share(padded(model, n, [&](std::size_t b) { return b == last; }))};
      std::int64_t gathered = all;
      if (zero.stage == 3 && zero.gather.after_forward.value_or(Reshard::yes) == Reshard::yes)
        gathered = micro_batches * (2 * middle + ends[1]) + ends[0] +
                   (zero.gather.per_parameter ? 0 : micro_batches * ends[0]);
      else if (zero.stage == 3)
        gathered = gathers * all - (gathers - 1) * ends[0];
      const RankReport rank = train_on_cpu(c).report.ranks[1];
      CAPTURE(zero.stage);
      CAPTURE(each);
      CHECK(sent(rank, "parameters", Collective::all_gather) == c.steps * gathered);
      CHECK(sent(rank, "gradients", Collective::reduce_scatter) ==
            c.steps * (each ? micro_batches : 1) * all);
    }
  }
}

TEST_CASE("hybrid sharding averages 2 (r-1)/r of a shard besides, once per step") {
  constexpr int n = 2, r = 3;
  TrainingCase c = on_ranks(n * r, stage(3));
  c.shard = n;
  c.zero->reduce_each = true;
  c.steps = 2;
  const Model model = c.make(nullptr);
  const std::int64_t shard = padded(model, n, [](std::size_t) { return true; }) / n;
  const RankReport rank = train_on_cpu(c).report.ranks[1];
  CHECK(std::llabs(sent(rank, "averages", Collective::all_reduce) -
                   c.steps * 4 * shard * 2 * (r - 1) / r) <=
        c.steps * static_cast<std::int64_t>(model.blocks.size()));  // each call rounds to bytes
}

TEST_CASE("groups of m ranks gather (m-1)/m of what does not stay for the backward") {
  constexpr int n = 4, m = 2;
  TrainingCase c = on_ranks(n, kept_by_groups());
  c.shard = m;
  c.replica.micro_batches = 1;
  c.steps = 2;
  const Model model = c.make(nullptr);
  const std::size_t last = model.blocks.size() - 1;
  const std::int64_t all = padded(model, n, [](std::size_t) { return true; });
  const std::int64_t regathered = padded(model, n, [&](std::size_t b) { return b < last; });
  const RankReport rank = train_on_cpu(c).report.ranks[2];
  CHECK(sent(rank, "parameters", Collective::all_gather) == c.steps * 4 * all * (n - 1) / n);
  CHECK(sent(rank, "regrouped", Collective::all_gather) == c.steps * 4 * regathered * (m - 1) / m);
}

}  // namespace orrery
