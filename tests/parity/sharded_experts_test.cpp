// Experts over ranks under algorithms that divide what other ranks hold alike, and inside workers
// that meet now and then: one rank's losses, bits in both worlds, exact bytes and memory.
#include <doctest/doctest.h>

#include "tests/parity/inside_replica.hpp"
#include "tests/support/algorithm_run.hpp"

namespace orrery {
namespace {

// Of which some tokens are dropped.
TransformerShape dropping_mixture() {
  TransformerShape s = shared_mixture();
  s.capacity = 1.5;
  s.router = Router::sigmoid;
  return s;
}

struct Sharded {
  Plan plan;
  int shard = 1;  // of the axis: with the expert ranks as many divide a copy
  ZeroOptions zero;
};

TrainingCase case_of(const Sharded& s, const TransformerShape& shape = dropping_mixture()) {
  TrainingCase c = case_of(shape, s.plan);
  c.shard = s.shard;
  c.zero = s.zero;
  c.zero->clip_norm = 1;
  c.steps = 12;
  return c;
}

ZeroOptions zero_stage(int number) { return {.stage = number}; }
ZeroOptions reduced_in_each() { return {.reduce_each = true}; }
ZeroOptions kept_for_a_step() {
  ZeroOptions zero;
  zero.gather.after_forward = Reshard::no;
  zero.gather.after_backward = false;
  return zero;
}
// Over all of 4 ranks, kept by pairs.
ZeroOptions kept_by_pairs() {
  ZeroOptions zero;
  zero.over = {Axis::expert, Axis::shard, Axis::replicate};
  zero.gather.after_forward = Reshard::to_group;
  zero.gather.group = {Axis::expert, Axis::shard};
  return zero;
}

void check_near(const std::vector<double>& losses, const std::vector<double>& expected) {
  REQUIRE(losses.size() == expected.size());
  for (std::size_t i = 0; i < losses.size(); ++i)
    CHECK(std::fabs(losses[i] - expected[i]) <= 1e-5 * expected[i]);
}

struct Parts {
  std::int64_t others = 0, experts = 0;
};
// Elements of a rank's blocks of one group each, padded for so many ranks each.
Parts padded_parts(const Model& model, int n, int same) {
  Parts sum;
  for (const auto& block : model.blocks) {
    Parts p;
    for (const ParameterSpec& spec : block->parameters())
      (spec.division.divides(Axis::expert) ? p.experts : p.others) += spec.elements;
    sum.others += (p.others + n - 1) / n * n;
    sum.experts += (p.experts + same - 1) / same * same;
  }
  return sum;
}

void check_follows_one_rank(std::initializer_list<Sharded> all) {
  TrainingCase one = case_of(dropping_mixture(), {});
  one.steps = 12;
  const std::vector<double> expected = train_on_cpu(one).losses;
  CHECK(expected.back() < expected.front());
  for (const Sharded& s : all) {
    CAPTURE(s.zero.stage);
    CAPTURE(s.plan.data);
    CAPTURE(s.plan.expert);
    CAPTURE(s.plan.pipeline);
    CAPTURE(s.shard);
    check_near(train_on_cpu(case_of(s)).losses, expected);
  }
}

}  // namespace

TEST_CASE("experts over 2 of 4 ranks under every stage have one rank's losses") {
  for (const ZeroOptions& zero :
       {zero_stage(1), zero_stage(2), zero_stage(3), reduced_in_each(), kept_for_a_step()})
    check_follows_one_rank({{{.data = 4, .expert = 2}, 2, zero}});
}
TEST_CASE("experts over all 4 ranks under every stage have one rank's losses") {
  for (const ZeroOptions& zero :
       {zero_stage(1), zero_stage(2), zero_stage(3), reduced_in_each(), kept_for_a_step()})
    check_follows_one_rank({{{.data = 4, .expert = 4}, 1, zero}});
}
TEST_CASE("experts under hybrid sharding and in groups have one rank's losses") {
  check_follows_one_rank({{{.data = 4, .expert = 2}, 1, zero_stage(3)},
                          {{.data = 4, .expert = 2}, 1, zero_stage(1)},
                          {{.data = 4, .expert = 2}, 1, kept_by_pairs()}});
}
TEST_CASE("experts under stages in products with pipeline and tensor have one rank's losses") {
  check_follows_one_rank(
      {{{.data = 2, .pipeline = 2, .expert = 2}, 1, zero_stage(3)},
       {{.data = 4, .pipeline = 2, .expert = 2}, 2, zero_stage(2)},
       {{.tensor = 2, .data = 2, .sequence_parallel = true, .expert = 2}, 1, zero_stage(3)}});
}
TEST_CASE("experts under context ranks that divide everything have one rank's losses") {
  TransformerShape shape = dropping_mixture();
  shape.capacity = 4;
  TrainingCase one = case_of(shape, {});
  one.steps = 12;
  for (const int number : {1, 3})
    check_near(train_on_cpu(
                   case_of({{.context = 2, .data = 2, .expert = 2}, 1, zero_stage(number)}, shape))
                   .losses,
               train_on_cpu(one).losses);
}

TEST_CASE("the global norm counts experts and all else once, whoever divides them") {
  const auto clipped = [](TrainingCase c, double norm) {
    c.replica.optimizer = {.name = "sgd", .lr = 1};  // to which the norm matters
    c.ddp.clip_norm = norm;
    if (c.zero) c.zero->clip_norm = norm;
    c.steps = 5;
    return train_on_cpu(c).losses;
  };
  const TrainingCase one = case_of(dropping_mixture(), {});
  const std::vector<double> expected = clipped(one, 0.05);
  CHECK(clipped(one, 100).back() < expected.back() - 1e-3);  // it does clip
  for (const int number : {1, 2, 3})
    for (const auto& [expert, shard] : {std::pair{2, 2}, {2, 1}, {4, 1}})
      check_near(clipped(case_of({{.data = 4, .expert = expert}, shard, zero_stage(number)}), 0.05),
                 expected);
}

TEST_CASE("every stage is DDP bit for bit with experts over ranks, however they divide") {
  const auto on_ten = [](TrainingCase c) {
    c.replica.micro_batches = 1;
    c.ddp.clip_norm.reset();
    if (c.zero) c.zero->clip_norm = 0;
    c.steps = 5;
    return train_on_cpu(c).losses;
  };
  const Plan plan{.data = 10, .expert = 2};
  const Model model = case_of(dropping_mixture(), plan).make(nullptr);
  const Parts own = padded_parts(model, 1, 1), with_padding = padded_parts(model, 10, 5);
  CHECK(with_padding.others > own.others);
  CHECK(with_padding.experts > own.experts);
  const std::vector<double> expected = on_ten(case_of(dropping_mixture(), plan));
  for (const ZeroOptions& zero : {zero_stage(1), zero_stage(2), zero_stage(3), kept_for_a_step()})
    CHECK(on_ten(case_of({plan, 5, zero})) == expected);
}

TEST_CASE("experts under stage 1 agree in sim and on cpu") {
  check_worlds_agree(case_of({{.data = 4, .expert = 2}, 2, zero_stage(1)}));
}
TEST_CASE("experts under FSDP that reduces in each micro-batch agree in sim and on cpu") {
  check_worlds_agree(case_of({{.data = 2, .expert = 2}, 1, reduced_in_each()}));
}
TEST_CASE("16-bit experts from fp32 shards of one rank agree in sim and on cpu") {
  TransformerShape shape = dropping_mixture();
  shape.dtype = Dtype::bf16;
  TrainingCase c = case_of({{.data = 4, .expert = 4}, 1, zero_stage(3)}, shape);
  c.replica.parameter_dtype = Dtype::fp32;
  c.replica.optimizer.lr = 3e-3;
  c.zero->communication = Dtype::bf16;
  check_worlds_agree(c);
}

TEST_CASE("experts in shards that are stopped and resumed end in the same bits") {
  for (const ZeroOptions& zero : {zero_stage(1), zero_stage(3)}) {
    TrainingCase c = case_of({{.data = 4, .expert = 2}, 2, zero});
    c.steps = 3;
    const Trained straight = train_on_cpu(c);
    TrainingCase part = c;
    part.steps = 1;
    const Trained first = train_on_cpu(part);
    CHECK(train_on_cpu(c, &first.state).state == straight.state);
  }
}

namespace {

std::int64_t sent_by(const RankReport& rank, const std::string& lane, Collective kind) {
  std::int64_t bytes = 0;
  for (const ChannelReport& c : rank.channels)
    if (c.lane == lane && c.use.kind == kind) bytes += c.use.bytes.value;
  return bytes;
}

}  // namespace

TEST_CASE("experts are reduced and gathered by the ranks that hold the same ones, in exact bytes") {
  constexpr int n = 4;
  for (const int e : {2, 4}) {
    const int same = n / e;
    for (const ZeroOptions& zero : {zero_stage(1), zero_stage(2), kept_for_a_step()}) {
      TrainingCase c = case_of({{.data = n, .expert = e}, same, zero});
      c.steps = 2;
      const Parts all = padded_parts(c.make(nullptr), n, same);
      CHECK(all.others % n == 0);
      for (const RankReport& rank : train_on_cpu(c).report.ranks) {
        const std::int64_t others = c.steps * 4 * all.others * (n - 1) / n,
                           experts = c.steps * 4 * all.experts * (same - 1) / same;
        CHECK(sent_by(rank, "gradients", Collective::reduce_scatter) == others);
        CHECK(sent_by(rank, "parameters", Collective::all_gather) == others);
        CHECK(sent_by(rank, "expert gradients", Collective::reduce_scatter) == experts);
        CHECK(sent_by(rank, "expert parameters", Collective::all_gather) == experts);
      }
    }
  }
}

TEST_CASE("ranks hold an n-th of all but experts, and of these what the same ones divide into") {
  constexpr int n = 4;
  for (const int e : {2, 4})
    for (const int number : {1, 2, 3}) {
      CAPTURE(e);
      CAPTURE(number);
      TrainingCase c = case_of({{.data = n, .expert = e}, n / e, zero_stage(number)});
      c.steps = 0;
      const Parts all = padded_parts(c.make(nullptr), n, n / e);
      const std::int64_t whole = all.others + all.experts,
                         shard = all.others / n + all.experts / (n / e);
      for (const RankReport& rank : train_on_cpu(c).report.ranks) {
        const auto held = [&](Label label) {
          return rank.peak_by_label[static_cast<std::size_t>(label)].value;
        };
        CHECK(held(Label::parameters) == 4 * (number == 3 ? shard : whole));
        CHECK(held(Label::gradients) == 4 * (number >= 2 ? shard : whole));
        CHECK(held(Label::optimizer) == 2 * 4 * shard + 16);  // moments; the number of the step
      }
    }
}

// ---- Algorithms of the table

namespace {

Model small_mixture(Rank& rank, int micro_batches) {
  TransformerShape shape = dropping_mixture();
  shape.micro_batches = micro_batches;
  shape.expert = rank.size(Axis::expert);
  return make_transformer(shape, test_text());
}

AlgorithmCase table_case(const std::string& yaml, int expert) {
  AlgorithmCase c;
  c.algorithm = yaml;
  c.steps = 7;
  c.expert = expert;
  c.model = small_mixture;
  return c;
}

const std::vector<std::string> of_workers{
    "{name: local-sgd, workers: 2, inner_steps: 3}",
    "{name: slowmo, workers: 2, inner_steps: 3}",
    "{name: diloco, workers: 2, inner_steps: 3}",
    "{name: diloco, workers: 2, inner_steps: 3, codec: {name: bf16}, drop: 0.3}",
    "{name: streaming-diloco, workers: 2, inner_steps: 4, fragment_layers: 2, codec: {name: bf16}}",
};

// What ranks send to others for the algorithm: all but tokens to experts.
std::int64_t sent_by_algorithm(const WorldResult& result, std::size_t rank) {
  WorldResult others;
  for (const std::string& line : result.channels)
    if (line.find("/activations") == std::string::npos) others.channels.push_back(line);
  REQUIRE(others.channels.size() < result.channels.size());
  return sent(others, rank);
}

}  // namespace

TEST_CASE("workers whose ranks divide their experts lose what workers with whole ones lose") {
  for (const std::string& yaml : of_workers) {
    if (yaml.find("codec") != std::string::npos) continue;  // rounds in other blocks
    CAPTURE(yaml);
    const AlgorithmCase whole = table_case(yaml, 1), divided = table_case(yaml, 2);
    const WorldResult expected = run_in_cpu(setup_of(whole), training_of(whole)),
                      result = run_in_cpu(setup_of(divided), training_of(divided));
    REQUIRE_MESSAGE(!result.error, why(result));
    for (std::size_t rank = 0; rank < 4; ++rank)
      check_near(losses_of(result, rank, 7), losses_of(expected, rank, 7));
  }
}

TEST_CASE("experts under algorithms of the table: bytes of the cost block, same bits in worlds") {
  std::vector<std::string> all = of_workers;
  for (const char* yaml :
       {"{name: zero, clip_norm: 1}", "{name: zero, stage: 2, communication: bf16}",
        "{name: fsdp, shard: 2, clip_norm: 1}", "{name: fsdp, reshard_after_forward: 2}"})
    all.emplace_back(yaml);
  for (const std::string& yaml : all) {
    CAPTURE(yaml);
    const AlgorithmCase c = table_case(yaml, 2);
    const WorldResult sim = run_in_sim(setup_of(c), training_of(c)),
                      cpu = run_in_cpu(setup_of(c), training_of(c));
    REQUIRE_MESSAGE(!sim.error, why(sim));
    REQUIRE_MESSAGE(!cpu.error, why(cpu));
    for (std::size_t rank = 0; rank < 4; ++rank) {
      CHECK(sim.notes[rank].values == cpu.notes[rank].values);
      CHECK(sim.notes[rank].checkpoints == cpu.notes[rank].checkpoints);
      CHECK(sent_by_algorithm(sim, rank) == sent_by_cost_block(sim, rank));
    }
    CHECK(sim.channels == cpu.channels);
    CHECK(sim.peaks == cpu.peaks);
  }
}

}  // namespace orrery
