// Parameters and gradients that are sent in 8 bits, moments that are stored in 16: the same bits in
// both worlds, the bytes of the cost blocks (algorithms/narrow_gather.cpp,
// algorithms/codecs/compressed_mean.hpp), and training that hardly feels it.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/parity/inside_replica.hpp"
#include "tests/parity/results.hpp"
#include "tests/support/algorithm_run.hpp"

namespace orrery {
namespace {

ZeroOptions narrow(bool per_parameter = false) {
  ZeroOptions zero;
  zero.gather.narrow = true;
  zero.gather.per_parameter = per_parameter;
  return zero;
}

// A bf16 transformer from fp32 shards, as precision asks for.
TrainingCase on_ranks(int data, int shard, const ZeroOptions& zero) {
  TransformerShape shape = shared_llama();
  shape.dtype = Dtype::bf16;
  TrainingCase c = case_of(shape, {.data = data});
  c.shard = shard;
  c.zero = zero;
  c.replica.parameter_dtype = Dtype::fp32;
  c.replica.optimizer.lr = 3e-3;
  return c;
}

std::int64_t sent_on(const RankReport& rank, const std::string& lane, Collective kind) {
  std::int64_t bytes = 0;
  for (const ChannelReport& c : rank.channels)
    if (c.lane == lane && c.use.kind == kind) bytes += c.use.bytes.value;
  return bytes;
}

// Of a block whose elements ranks divide evenly: the most elements that are no matrix in any shard.
std::int64_t most_others(const Block& block, int n) {
  std::int64_t shard = (block.parameter_elements() + n - 1) / n;
  std::vector<std::int64_t> others(static_cast<std::size_t>(n), shard);
  std::int64_t at = 0;
  for (const ParameterSpec& spec : block.parameters())
    for (std::int64_t i = 0; i < spec.elements; ++i, ++at)
      if (spec.name.ends_with(".weight")) --others[static_cast<std::size_t>(at / shard)];
  return *std::max_element(others.begin(), others.end());
}

}  // namespace

TEST_CASE("parameters gathered in fp8 give the same bits and peaks in sim and on cpu") {
  check_worlds_agree(on_ranks(4, 4, narrow()));
}
TEST_CASE("fp8 gathered into a buffer and decoded from it agrees in sim and on cpu") {
  check_worlds_agree(on_ranks(4, 2, narrow(true)));
}
TEST_CASE("experts gathered in fp8 agree in sim and on cpu") {
  TrainingCase c = on_ranks(4, 2, narrow());
  c.transformer->experts = 4;
  c.transformer->experts_per_token = 2;
  c.transformer->expert_ffn = 12;
  c.transformer->dense_layers = 1;
  c.transformer->capacity = 1.5;
  c.expert = 2;
  check_worlds_agree(c);
}
TEST_CASE("fp8 gathered by 3 ranks, whose shards cut matrices, and recomputed agrees") {
  TrainingCase c = on_ranks(3, 3, narrow());
  c.replica.micro_batches = 1;
  c.replica.recompute = Recompute::full;
  check_worlds_agree(c);
}
TEST_CASE("gradients sent as fp8 messages give the same bits and peaks in sim and on cpu") {
  TrainingCase c = on_ranks(4, 4, narrow());
  c.zero->codec = make_codec({.name = "fp8-e5m2"});
  c.zero->reduce_each = true;
  c.replica.micro_batches = 2;
  check_worlds_agree(c);
}
TEST_CASE("moments in bf16 give the same bits and peaks in sim and on cpu") {
  TrainingCase c = on_ranks(2, 2, ZeroOptions{});
  c.replica.optimizer.moments = Dtype::bf16;
  check_worlds_agree(c);
}

// The scale of a matrix is that of all its shards, so the first loss, before rounding of sums can
// add up, does not depend on how many ranks there are; and it is not that of unrounded parameters.
TEST_CASE("what is gathered in fp8 does not depend on how many ranks divide it") {
  const auto first_loss = [](int data, bool in_fp8) {
    TrainingCase c = on_ranks(data, data, in_fp8 ? narrow() : ZeroOptions{});
    c.transformer->dtype = Dtype::fp32;
    c.steps = 1;
    return train_on_cpu(c).losses.at(0);
  };
  const double two = first_loss(2, true), exact = first_loss(2, false);
  CHECK(std::fabs(first_loss(4, true) - two) < 1e-6 * two);
  CHECK(std::fabs(two - exact) > 1e-6 * exact);
  CHECK(std::fabs(two - exact) < 1e-2 * exact);
}

TEST_CASE("50 losses with everything narrow stay within 2 % of those in bf16 and fp32") {
  const std::vector<double> wide = train_on_cpu(on_ranks(4, 4, ZeroOptions{})).losses;
  ZeroOptions wire;
  wire.codec = make_codec({.name = "fp8-e5m2"});
  TrainingCase moments = on_ranks(4, 4, ZeroOptions{});
  moments.replica.optimizer.moments = Dtype::bf16;
  for (const TrainingCase& c : {on_ranks(4, 4, narrow()), on_ranks(4, 4, wire), moments}) {
    const double off = largest_relative_difference(train_on_cpu(c).losses, wide);
    CHECK(off > 0);
    CHECK(off < 0.02);
  }
}

TEST_CASE("matrices of layers are gathered as bytes, all else in its type, at equal sizes") {
  constexpr int n = 4, steps = 2, micro_batches = 2;
  for (const bool per_parameter : {false, true}) {
    TrainingCase c = on_ranks(n, n, narrow(per_parameter));
    c.replica.micro_batches = micro_batches;
    c.steps = steps;
    const Model model = c.make(nullptr);
    const std::size_t last = model.blocks.size() - 1;
    std::int64_t gathered = 0, matrices = 0;
    for (std::size_t b = 0; b <= last; ++b) {
      const Block& block = *model.blocks[b];
      const std::int64_t shard = (block.parameter_elements() + n - 1) / n;
      const bool end = b == 0 || b == last;
      const std::int64_t message = end ? 2 * shard : shard + most_others(block, n);
      // The head stays from each forward to its backward, the embedding from the backward to the
      // next forward, or as the first group of all.
      const int times = b == last       ? micro_batches
                        : b > 0         ? 2 * micro_batches
                        : per_parameter ? 1
                                        : micro_batches + 1;
      gathered += (n - 1) * message * times;
      if (!end) matrices += 4;  // qkv, out, up, down
    }
    for (const RankReport& rank : train_on_cpu(c).report.ranks) {
      CHECK(sent_on(rank, "parameters", Collective::all_gather) == steps * gathered);
      CHECK(sent_on(rank, "parameters", Collective::all_reduce) ==
            steps * 2 * (n - 1) * 4 * matrices / n);
    }
  }
}

TEST_CASE("fp8 on the wire sends what the cost block says, in both worlds") {
  for (const char* more :
       {"gather: fp8", "gather: fp8, per_parameter: true, shard: 2", "communication: fp8-e5m2",
        "gather: fp8, communication: fp8-e4m3, reduce: each, clip_norm: 1"}) {
    AlgorithmCase c;
    c.algorithm = std::string("{name: fsdp, ") + more + "}";
    CAPTURE(c.algorithm);
    c.steps = 3;
    c.model = [](Rank&, int micro_batches) {
      TransformerShape shape = shared_llama();
      shape.micro_batches = micro_batches;
      return make_transformer(shape, test_text());
    };
    for (const WorldResult& result :
         {run_in_sim(setup_of(c), training_of(c)), run_in_cpu(setup_of(c), training_of(c))}) {
      REQUIRE_MESSAGE(!result.error, why(result));
      for (std::size_t rank = 0; rank < 4; ++rank) {
        CHECK(sent(result, rank) > 0);
        CHECK(sent_by_cost_block(result, rank) == sent(result, rank));
      }
    }
  }
}

// Messages of a part are a byte per element and 4 for each 256: see codec.hpp.
TEST_CASE("gradients in fp8 are n - 1 messages from every rank") {
  constexpr int n = 4;
  TrainingCase c = on_ranks(n, n, ZeroOptions{});
  c.zero->codec = make_codec({.name = "fp8-e5m2"});
  c.steps = 2;
  std::int64_t messages = 0;
  for (const auto& block : c.make(nullptr).blocks) {
    const std::int64_t shard = (block->parameter_elements() + n - 1) / n;
    messages += shard + 4 * ((shard + 255) / 256);
  }
  for (const RankReport& rank : train_on_cpu(c).report.ranks) {
    CHECK(sent_on(rank, "gradients", Collective::all_to_all) == c.steps * (n - 1) * messages);
    CHECK(sent_on(rank, "gradients", Collective::reduce_scatter) == 0);
  }
}

TEST_CASE("a run with fp8 on the wire that stops and is resumed ends in the same bits") {
  TrainingCase c = on_ranks(2, 2, narrow());
  c.zero->codec = make_codec({.name = "fp8-e4m3"});
  c.replica.optimizer.moments = Dtype::bf16;
  c.steps = 3;
  const Trained straight = train_on_cpu(c);
  TrainingCase part = c;
  part.steps = 1;
  const Trained first = train_on_cpu(part);
  CHECK(train_on_cpu(c, &first.state).state == straight.state);
}

TEST_CASE("bf16 moments of AdamW take 4 bytes of an element where fp32 ones take 8") {
  const auto optimizer_bytes = [](Dtype moments) {
    TrainingCase c = on_ranks(2, 2, ZeroOptions{});
    c.replica.optimizer.moments = moments;
    c.steps = 1;
    return train_on_cpu(c)
        .report.ranks[0]
        .peak_by_label[static_cast<std::size_t>(Label::optimizer)]
        .value;
  };
  const std::int64_t wide = optimizer_bytes(Dtype::fp32), thin = optimizer_bytes(Dtype::bf16);
  CHECK(wide - 16 == 2 * (thin - 16));  // but for the step's number and rate
}

TEST_CASE("what cannot be gathered in fp8 is refused") {
  const auto message = [](TrainingCase c) -> std::string {
    c.steps = 1;
    try {
      train_on_cpu(c);
    } catch (const Error& e) {
      CHECK(e.category() == Category::config);
      return e.message();
    }
    return "";
  };
  TrainingCase stored = on_ranks(2, 2, narrow());
  stored.replica.parameter_dtype.reset();
  CHECK(message(stored) == "parameters that are gathered in 8 bits are stored in fp32");
  TrainingCase mlp = on_ranks(2, 2, narrow());
  mlp.transformer.reset();
  CHECK(message(mlp) == "a model without products that take fp8 has nothing to narrow");
  TrainingCase groups = on_ranks(2, 2, narrow());
  groups.zero->gather.after_forward = Reshard::to_group;
  groups.zero->gather.group = Axis::shard;
  CHECK(message(groups) == "parameters that are gathered in 8 bits are not regathered");
}

}  // namespace orrery
