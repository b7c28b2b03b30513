// Mixtures of experts with values: one rank's losses whoever holds the experts, bits in both
// worlds, exact bytes.
#include <doctest/doctest.h>

#include "algorithms/models/mixture.hpp"
#include "tests/parity/inside_replica.hpp"

namespace orrery {
namespace {

// Mixtral style: four experts, of which a token passes two, in all layers but the first; places for
// one and a half times the even share, so that some tokens are dropped.
TransformerShape capped_mixture(double capacity = 1.5) {
  TransformerShape s = shared_llama();
  s.experts = 4;
  s.experts_per_token = 2;
  s.expert_ffn = 12;
  s.dense_layers = 1;
  s.capacity = capacity;
  return s;
}

// DeepSeek style: sigmoid router, a shared expert, every layer a mixture.
TransformerShape deepseek_mixture() {
  TransformerShape s = capped_mixture();
  s.router = Router::sigmoid;
  s.shared_ffn = 8;
  s.dense_layers = 0;
  return s;
}

TEST_CASE("experts over 2 and 4 ranks have the losses of one rank, tokens dropped or not") {
  for (const double capacity : {1.0, 1.5, 4.0})
    check_follows_one_rank(capped_mixture(capacity),
                           {{.data = 2, .expert = 2}, {.data = 4, .expert = 4}});
}
TEST_CASE("shared experts and experts over ranks have the losses of one rank") {
  check_follows_one_rank(deepseek_mixture(), {{.data = 2, .expert = 2}, {.data = 4, .expert = 2}});
}
TEST_CASE("experts in products with tensor and data and pipeline follow one rank") {
  check_follows_one_rank(deepseek_mixture(),
                         {{.tensor = 2},
                          {.tensor = 2, .data = 2, .sequence_parallel = true, .expert = 2},
                          {.tensor = 2, .data = 2, .pipeline = 2, .expert = 2},
                          {.data = 4, .pipeline = 2, .expert = 4}});
}
TEST_CASE("experts over context ranks that drop nothing follow one rank") {
  check_follows_one_rank(capped_mixture(4), {{.context = 2, .data = 2, .expert = 2}});
}

TEST_CASE("experts over 4 ranks give the same bits in sim and on cpu") {
  check_worlds_agree(case_of(capped_mixture(), {.data = 4, .expert = 4}));
}
TEST_CASE("shared experts in bf16 and in products give the same bits in sim and on cpu") {
  TransformerShape shape = deepseek_mixture();
  shape.dtype = Dtype::bf16;
  TrainingCase c = case_of(shape, {.tensor = 2, .data = 4, .sequence_parallel = true, .expert = 2});
  c.replica.optimizer.lr = 3e-3;  // what 16 bits can follow
  check_worlds_agree(c);
}

TEST_CASE("recomputation of experts changes no bit") {
  TrainingCase c = case_of(deepseek_mixture(), {.data = 2, .expert = 2});
  c.steps = 5;
  const Trained kept = train_on_cpu(c);
  c.replica.recompute = Recompute::full;
  CHECK(train_on_cpu(c).state == kept.state);
}

// The cost in algorithms/models/mixture.hpp, of one rank in whole bytes.
TEST_CASE("expert ranks send what the formula says") {
  for (const int e : {2, 4}) {
    TrainingCase c = case_of(capped_mixture(), {.data = 4, .expert = e});
    c.steps = 3;
    const Trained trained = train_on_cpu(c);
    const std::int64_t tokens = 2 * 16, capacity = 24;  // 1.5 * 32 * 2 / 4
    TransformerShape shape = capped_mixture();
    shape.expert = e;
    CHECK(expert_capacity(shape) == capacity);
    CHECK(capacity < tokens);
    const std::int64_t passes = 3 * 3 * 1;  // layers, steps, micro-batches
    const std::int64_t buffer = 4 * capacity * 16 * 4;
    // Gradients: of experts over the ranks that hold the same ones, of all else over all.
    std::int64_t of_experts = 0, others = 0;
    for (const auto& block : c.make(nullptr).blocks)
      for (const ParameterSpec& spec : block->parameters())
        (spec.division.divides(Axis::expert) ? of_experts : others) += 4 * spec.elements;
    const int same = 4 / e;
    for (const RankReport& rank : trained.report.ranks) {
      Sent sent = sent_over(rank, "expert");
      CHECK(sent["activations all_to_all"] ==
            std::pair<std::int64_t, std::int64_t>{4 * passes, 4 * passes * (e - 1) * buffer / e});
      CHECK(sent_over(rank, same > 1 ? "expert+replicate" : "expert")["gradients all_reduce"]
                .second == 3 * 2 * 3 * others / 4);
      CHECK(sent_over(rank, "replicate")["expert gradients all_reduce"].second ==
            3 * 2 * (same - 1) * of_experts / same);
    }
  }
}

TEST_CASE("an expert's initial parameters are those of one rank, wherever it lies") {
  const auto initial = [](const TransformerShape& shape, const Plan& plan) {
    TrainingCase c = case_of(shape, plan);
    c.steps = 0;
    std::vector<std::vector<float>> out;
    for (const Checkpoint& state : train_on_cpu(c).state) {
      const auto& bytes = state.fields.at("replica.parameters");
      out.emplace_back(bytes.size() / sizeof(float));
      std::memcpy(out.back().data(), bytes.data(), bytes.size());
    }
    return out;
  };
  const TransformerShape shape = deepseek_mixture();
  const std::vector<float> whole = initial(shape, {})[0];
  const auto parts = initial(shape, {.data = 4, .expert = 4});
  const Model all = case_of(shape, {}).make(nullptr),
              mine = case_of(shape, {.data = 4, .expert = 4}).make(nullptr);
  std::size_t from = 0, part_from = 0;
  for (std::size_t b = 0; b < all.blocks.size(); ++b)
    for (std::size_t i = 0; i < all.blocks[b]->parameters().size(); ++i) {
      const auto size = static_cast<std::size_t>(all.blocks[b]->parameters()[i].elements);
      const auto part = static_cast<std::size_t>(mine.blocks[b]->parameters()[i].elements);
      CAPTURE(all.blocks[b]->parameters()[i].name);
      CHECK((part == size || 4 * part == size));
      for (std::size_t r = 0; r < 4; ++r)
        for (std::size_t j = 0; j < part; ++j)
          REQUIRE(parts[r][part_from + j] == whole[from + (part < size ? r * part : 0) + j]);
      from += size;
      part_from += part;
    }
  CHECK(from == whole.size());
}

// All routers of a rank, one behind the other.
std::vector<float> routers_of(const TrainingCase& c, const Checkpoint& state) {
  const auto& bytes = state.fields.at("replica.parameters");
  std::vector<float> routers;
  std::size_t at = 0;
  for (const auto& block : c.make(nullptr).blocks)
    for (const ParameterSpec& spec : block->parameters()) {
      const auto elements = static_cast<std::size_t>(spec.elements);
      if (spec.name == "router.weight") {
        routers.resize(routers.size() + elements);
        std::memcpy(&routers[routers.size() - elements], bytes.data() + at * sizeof(float),
                    elements * sizeof(float));
      }
      at += elements;
    }
  return routers;
}

// Losses hardly tell: a router's gradient is small.
TEST_CASE("routers move alike on all ranks, as they do on one") {
  const auto after = [](std::int64_t steps, const Plan& plan) {
    TrainingCase c = case_of(deepseek_mixture(), plan);
    c.replica.optimizer = {.name = "sgd", .lr = 1};
    c.ddp.clip_norm = 0;
    c.steps = steps;
    std::vector<std::vector<float>> routers;
    for (const Checkpoint& state : train_on_cpu(c).state) routers.push_back(routers_of(c, state));
    return routers;
  };
  const std::vector<float> before = after(0, {})[0], one = after(1, {})[0];
  float moved = 0;
  for (std::size_t i = 0; i < one.size(); ++i)
    moved = std::max(moved, std::fabs(one[i] - before[i]));
  REQUIRE(moved > 1e-6);
  for (const Plan& plan :
       {Plan{.tensor = 2}, {.tensor = 2, .sequence_parallel = true}, {.data = 4, .expert = 4}}) {
    CAPTURE(plan.tensor);
    CAPTURE(plan.sequence_parallel);
    const auto routers = after(1, plan);
    for (const std::vector<float>& router : routers) {
      CHECK(router == routers[0]);
      float off = 0;
      for (std::size_t i = 0; i < one.size(); ++i)
        off = std::max(off, std::fabs(router[i] - one[i]));
      CHECK(off < 1e-3F * moved);
    }
  }
}

}  // namespace
}  // namespace orrery
