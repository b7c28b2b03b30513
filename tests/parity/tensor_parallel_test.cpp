// Tensor and sequence parallelism with values: one rank's losses, bits in both worlds, exact bytes.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "tests/parity/inside_replica.hpp"

namespace orrery {
namespace {

TrainingCase case_of(const TransformerShape& shape, int tensor, bool sequence, int data = 1,
                     int pipeline = 1) {
  return case_of(shape, {tensor, 1, data, pipeline, sequence});
}

TEST_CASE("a GPT over 2 and 4 tensor ranks has the losses of one rank, tokens divided or not") {
  check_follows_one_rank(shared_gpt(), {{.tensor = 2},
                                        {.tensor = 4},
                                        {.tensor = 2, .sequence_parallel = true},
                                        {.tensor = 4, .sequence_parallel = true}});
}
TEST_CASE("a Llama over 2 and 4 tensor ranks has the losses of one rank, tokens divided or not") {
  check_follows_one_rank(shared_llama(), {{.tensor = 2},
                                          {.tensor = 4},
                                          {.tensor = 2, .sequence_parallel = true},
                                          {.tensor = 4, .sequence_parallel = true}});
}
TEST_CASE("a GPT-NeoX over 2 tensor ranks has the losses of one rank, tokens divided or not") {
  check_follows_one_rank(shared_neox(), {{.tensor = 2}, {.tensor = 2, .sequence_parallel = true}});
}
// The gains' gradients are sums over the ranks' heads.
TEST_CASE("a Llama with norms of queries and keys has the losses of one rank on several") {
  TransformerShape shape = shared_llama();
  shape.qk_norm = true;
  check_follows_one_rank(shape, {{.tensor = 2},
                                 {.tensor = 4, .sequence_parallel = true},
                                 {.tensor = 2, .data = 2, .pipeline = 2},
                                 {.context = 2}});
  shape.context_algorithm = ContextAlgorithm::ulysses;
  check_follows_one_rank(shape, {{.tensor = 2, .context = 2}});
}
TEST_CASE("a Llama with norms of queries and keys gives the same bits in sim and on cpu") {
  TransformerShape shape = shared_llama();
  shape.qk_norm = true;
  check_worlds_agree(case_of(shape, 2, true, 1, 2));
}
TEST_CASE("a GPT over tensor and data and pipeline ranks has the losses of one rank") {
  check_follows_one_rank(shared_gpt(),
                         {{.tensor = 2, .data = 2},
                          {.tensor = 2, .pipeline = 2, .sequence_parallel = true},
                          {.tensor = 2, .data = 2, .pipeline = 2},
                          {.tensor = 2, .data = 2, .pipeline = 2, .sequence_parallel = true},
                          {.tensor = 4, .pipeline = 2, .sequence_parallel = true}});
}
TEST_CASE("a Llama over tensor and data and pipeline ranks has the losses of one rank") {
  check_follows_one_rank(shared_llama(),
                         {{.tensor = 2, .data = 2, .pipeline = 2, .sequence_parallel = true},
                          {.tensor = 4, .data = 2, .sequence_parallel = true},
                          {.tensor = 2, .pipeline = 4}});
}

TEST_CASE("a GPT over 2 tensor ranks gives the same bits in sim and on cpu") {
  check_worlds_agree(case_of(shared_gpt(), 2, false));
}
TEST_CASE("a GPT over 4 tensor ranks that divide tokens gives the same bits in sim and on cpu") {
  check_worlds_agree(case_of(shared_gpt(), 4, true));
}
TEST_CASE("a Llama over tensor and data and pipeline ranks gives the same bits in sim and on cpu") {
  check_worlds_agree(case_of(shared_llama(), 2, true, 2, 2));
}
TEST_CASE("a Llama in bf16 over tensor ranks gives the same bits in sim and on cpu") {
  TransformerShape shape = shared_llama();
  shape.dtype = Dtype::bf16;
  check_worlds_agree(case_of(shape, 2, true, 2));
}

TEST_CASE("recomputation over tensor ranks changes no bit") {
  for (const bool sequence : {false, true}) {
    TrainingCase c = case_of(shared_gpt(), 2, sequence);
    c.steps = 5;
    const Trained kept = train_on_cpu(c);
    c.replica.recompute = Recompute::full;
    const Trained again = train_on_cpu(c);
    CHECK(kept.state == again.state);
    CHECK(kept.losses == again.losses);
  }
}

TEST_CASE("a training over tensor ranks resumes after any step in the same bits") {
  TrainingCase c = case_of(shared_gpt(), 2, true, 2);
  c.steps = 4;
  const Trained straight = train_on_cpu(c);
  for (const int stop : {1, 3}) {
    TrainingCase part = c;
    part.steps = stop;
    const Trained first = train_on_cpu(part);
    CHECK(train_on_cpu(c, &first.state).state == straight.state);
  }
}

std::vector<float> floats(const std::vector<std::byte>& bytes) {
  std::vector<float> out(bytes.size() / sizeof(float));
  std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

// Every element of a whole parameter, wherever its owners have it, is in `parts` and the same.
void check_parts(const std::vector<float>& whole, const ParameterSpec& spec,
                 const std::vector<std::vector<float>>& parts) {
  CAPTURE(spec.name);
  std::vector<int> owners(whole.size());
  for (std::size_t r = 0; r < parts.size(); ++r) {
    REQUIRE(parts[r].size() == static_cast<std::size_t>(spec.elements));
    const Division& d = spec.division;
    const auto rank = static_cast<std::int64_t>(r);
    std::size_t at = 0;
    const auto expect = [&](std::int64_t global) {
      ++owners[static_cast<std::size_t>(global)];
      CHECK(parts[r][at++] == whole[static_cast<std::size_t>(global)]);
    };
    if (d.columns.empty()) {
      const std::int64_t first = d.rows > 0 ? rank * spec.elements : 0;
      for (std::int64_t i = 0; i < spec.elements; ++i) expect(first + i);
      continue;
    }
    for (std::int64_t row = 0; row < d.rows; ++row)
      for (const Division::Columns& c : d.columns)
        for (std::int64_t i = 0; i < c.count; ++i)
          expect(row * d.global_columns + c.first + rank * c.count + i);
  }
  const int copies = spec.division.rows > 0 ? 1 : static_cast<int>(parts.size());
  for (const int count : owners) CHECK(count == copies);
}

TEST_CASE("initial parameters over tensor ranks are those of one rank, bit for bit") {
  for (TransformerShape shape : {shared_gpt(), shared_llama()}) {
    shape.tied = false;
    TrainingCase one = case_of(shape, 1, false);
    one.steps = 0;
    const std::vector<float> whole =
        floats(train_on_cpu(one).state[0].fields.at("replica.parameters"));
    for (const int tensor : {2, 4}) {
      TrainingCase c = case_of(shape, tensor, false);
      c.steps = 0;
      const Trained divided = train_on_cpu(c);
      const Model mine = c.make(nullptr), all = one.make(nullptr);
      std::size_t from = 0, part_from = 0;
      for (std::size_t b = 0; b < mine.blocks.size(); ++b)
        for (std::size_t i = 0; i < mine.blocks[b]->parameters().size(); ++i) {
          const ParameterSpec& spec = mine.blocks[b]->parameters()[i];
          const auto size = static_cast<std::size_t>(all.blocks[b]->parameters()[i].elements);
          const auto part = static_cast<std::size_t>(spec.elements);
          std::vector<std::vector<float>> parts;
          for (const Checkpoint& state : divided.state) {
            const std::vector<float> values = floats(state.fields.at("replica.parameters"));
            const auto begin = values.begin() + static_cast<std::ptrdiff_t>(part_from);
            parts.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(part));
          }
          const auto begin = whole.begin() + static_cast<std::ptrdiff_t>(from);
          check_parts({begin, begin + static_cast<std::ptrdiff_t>(size)}, spec, parts);
          from += size;
          part_from += part;
        }
      CHECK(from == whole.size());
    }
  }
}

TEST_CASE("any range of a divided parameter is written as in the whole of it") {
  const ParameterSpec spec{"m", 5 * 6, 0.5, 0, true, 0, {Axis::tensor, 5, 12, {{0, 4}, {8, 2}}}};
  WorldOptions options;
  options.grid.set(Axis::tensor, 2);
  options.real_values = true;
  options.bodies = &cpu_bodies();
  make_cpu_world(options)->run([&](Rank& rank) {
    Stream& stream = rank.stream("compute");
    const auto values = [&](std::int64_t first, std::int64_t n) {
      const Tensor t = rank.allocate(stream, Label::parameters, n, Dtype::fp32);
      initialise(rank, stream, spec, 9, t, first);
      return rank.read(t);
    };
    const Tensor all = rank.allocate(stream, Label::parameters, 5 * 12, Dtype::fp32);
    initialise(rank, stream, {"m", 5 * 12, 0.5}, 9, all);
    const std::vector<double> whole = rank.read(all), mine = values(0, 30);
    const int r = rank.coordinate(Axis::tensor);
    for (int row = 0; row < 5; ++row)
      for (int i = 0; i < 6; ++i)
        CHECK(mine[static_cast<std::size_t>(6 * row + i)] ==
              whole[static_cast<std::size_t>(12 * row + (i < 4 ? 4 * r + i : 8 + 2 * r + i - 4))]);
    for (int first = 0; first < 30; ++first)
      for (int end = first + 1; end <= 30; ++end)
        CHECK(values(first, end - first) ==
              std::vector<double>(mine.begin() + first, mine.begin() + end));
  });
}

TEST_CASE("clipping counts what tensor ranks hold whole once") {
  // The clip scale is that of one rank, so every update is too, but for rounding.
  TrainingCase one = case_of(shared_gpt(), 1, false);
  one.ddp.clip_norm = 0.05;
  one.replica.optimizer = {.name = "sgd", .lr = 1};
  one.steps = 3;
  const Trained expected = train_on_cpu(one);
  for (const bool sequence : {false, true}) {
    TrainingCase c = case_of(shared_gpt(), 4, sequence);
    c.ddp = one.ddp;
    c.replica.optimizer = one.replica.optimizer;
    c.steps = 3;
    const Trained got = train_on_cpu(c);
    for (std::size_t i = 0; i < 3; ++i)  // counting them four times moves the third by 5e-3
      CHECK(std::fabs(got.losses[i] - expected.losses[i]) < 1e-6 * expected.losses[i]);
  }
}

// The cost in algorithms/models/tensor_parallel.hpp, of one rank in whole bytes.
TEST_CASE("tensor ranks send what the formulas say") {
  for (const int t : {2, 4})
    for (const bool sequence : {false, true}) {
      TrainingCase c = case_of(shared_gpt(), t, sequence);
      c.steps = 3;
      const Trained trained = train_on_cpu(c);
      const std::int64_t tokens = 2 * 16, n = tokens * 16 * 4, layers = 4, passes = 3 * 4;
      const std::int64_t reduces = sequence ? 0 : passes * (4 * layers + 2);
      const std::int64_t gathers = sequence ? passes * (6 * layers + 3) : 0;
      const std::int64_t scatters = sequence ? passes * (4 * layers + 2) : 0;
      // Per layer the runs of norm, of output bias and norm, and of the bias behind the MLP; the
      // head's norm; the positions.
      const std::int64_t partial = sequence ? 3 * 4 * (layers * (32 + 48 + 16) + 32 + 20 * 16) : 0;
      for (const RankReport& rank : trained.report.ranks) {
        Sent sent = sent_over(rank, "tensor");
        using Use = std::pair<std::int64_t, std::int64_t>;
        CHECK(sent["activations all_reduce"] ==
              Use{reduces + 2 * passes, 2 * (t - 1) * (reduces * n + passes * 3 * tokens * 4) / t});
        if (!sequence) continue;
        CHECK(sent["activations all_gather"] == Use{gathers, (t - 1) * gathers * n / t});
        CHECK(sent["activations reduce_scatter"] == Use{scatters, (t - 1) * scatters * n / t});
        CHECK(sent["gradients all_reduce"] == Use{3 * (3 * layers + 2), 2 * (t - 1) * partial / t});
      }
    }
}

TEST_CASE("what does not divide over tensor ranks is refused with every reason at once") {
  TransformerShape s = shared_gpt();
  s.heads = s.kv_heads = 5;
  s.ffn = 21;
  s.vocabulary = 257;
  s.sequence = 11;
  s.tensor = 2;
  s.sequence_parallel = true;
  CHECK(s.indivisible().size() == 5);
  CHECK_THROWS_WITH_AS(
      make_transformer(s),
      "5 attention heads do not divide over 2 ranks; 5 heads of keys and values do "
      "not divide over 2 ranks; 21 columns of the MLP do not divide over 2 ranks; "
      "257 rows of the vocabulary do not divide over 2 ranks; 11 tokens of a "
      "sequence do not divide over 2 ranks",
      Error);
}

}  // namespace
}  // namespace orrery
