// A tied embedding over pipeline stages: two copies of one table that must stay one.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "tests/parity/results.hpp"
#include "tests/parity/small_transformers.hpp"
#include "tests/parity/worlds_agree.hpp"

namespace orrery {
namespace {

TrainingCase tied_gpt(int data, int pipeline, const char* schedule = "1f1b") {
  TransformerShape s = small_gpt();
  s.learned_positions = 12;
  s.tied = true;
  TrainingCase c;
  c.data = data;
  c.pipeline = pipeline;
  c.transformer = s;
  c.replica.schedule = schedule;
  c.replica.micro_batches = 4;
  c.replica.optimizer = {.name = "adamw", .lr = 3e-3};
  c.ddp.clip_norm = 1;
  return c;
}

// Per field of the checkpoint that has a value per parameter, the shared elements at its start.
void check_copies_equal(const TrainingCase& c, const Trained& trained) {
  Grid grid;
  grid.set(Axis::replicate, c.data).set(Axis::pipeline, c.pipeline);
  const auto state = [&](int replica, int stage) -> const Checkpoint& {
    const int first = grid.rank_with(0, Axis::replicate, replica);
    return trained.state[static_cast<std::size_t>(grid.rank_with(first, Axis::pipeline, stage))];
  };
  const auto elements = static_cast<std::size_t>(copied_parameters(c));
  for (int replica = 0; replica < c.data; ++replica) {
    int compared = 0;
    for (const auto& [name, bytes] : state(replica, 0).fields) {
      if (name == "replica.parameters") {
        const std::size_t size = elements * static_cast<std::size_t>(size_of(c.transformer->dtype));
        CHECK(std::memcmp(bytes.data(), state(replica, c.pipeline - 1).fields.at(name).data(),
                          size) == 0);
        ++compared;
      } else if (name.starts_with("replica.optimizer.") && bytes.size() > 64) {
        CHECK(std::memcmp(bytes.data(), state(replica, c.pipeline - 1).fields.at(name).data(),
                          elements * sizeof(float)) == 0);
        ++compared;
      }
    }
    CHECK(compared >= 3);  // parameters and both moments
  }
}

const Trained& unpipelined() {
  static const Trained trained = train_on_cpu(tied_gpt(1, 1));
  return trained;
}

void check_follows_one_stage(int data, int pipeline, const char* schedule) {
  CAPTURE(data);
  CAPTURE(pipeline);
  CAPTURE(schedule);
  TrainingCase c = tied_gpt(data, pipeline, schedule);
  c.replica.micro_batches = 4 / data;
  const Trained trained = train_on_cpu(c);
  CHECK(largest_relative_difference(trained.losses, unpipelined().losses) < 1e-5);
  check_copies_equal(c, trained);
}

TEST_CASE("a tied GPT over two and four stages has the losses of one stage, by GPipe and 1F1B") {
  for (const char* schedule : {"gpipe", "1f1b"})
    for (const int stages : {2, 4}) check_follows_one_stage(1, stages, schedule);
}

TEST_CASE("a tied GPT over data and pipeline parallel ranks has the losses of one rank") {
  for (const char* schedule : {"gpipe", "1f1b"}) check_follows_one_stage(2, 2, schedule);
  check_follows_one_stage(4, 2, "1f1b");
  check_follows_one_stage(2, 4, "1f1b");
}

TEST_CASE("a tied GPT under GPipe on two stages gives the same bits in sim and on cpu") {
  check_worlds_agree(tied_gpt(1, 2, "gpipe"));
}
TEST_CASE("a tied GPT under GPipe on four stages gives the same bits in sim and on cpu") {
  check_worlds_agree(tied_gpt(1, 4, "gpipe"));
}
TEST_CASE("a tied GPT under 1F1B on two stages gives the same bits in sim and on cpu") {
  check_worlds_agree(tied_gpt(1, 2));
}
TEST_CASE("a tied GPT under 1F1B on four stages gives the same bits in sim and on cpu") {
  check_worlds_agree(tied_gpt(1, 4));
}
TEST_CASE("a tied GPT in two pipelines of two stages gives the same bits in sim and on cpu") {
  check_worlds_agree(tied_gpt(2, 2));
}
TEST_CASE("a tied GPT in bf16 over stages gives the same bits in sim and on cpu, on both copies") {
  TrainingCase c = tied_gpt(2, 2);
  c.transformer->dtype = Dtype::bf16;
  c.replica.gradient_dtype = Dtype::bf16;
  check_worlds_agree(c);
  c.steps = 5;
  check_copies_equal(c, train_on_cpu(c));
}

TEST_CASE(
    "a tied GPT over stages without a bucket to average ends with equal copies, recomputed too") {
  TrainingCase c = tied_gpt(1, 2);
  c.steps = 5;
  const Trained kept = train_on_cpu(c);
  check_copies_equal(c, kept);
  c.replica.recompute = Recompute::full;
  CHECK(train_on_cpu(c).state == kept.state);
}

TEST_CASE("clipping counts a shared embedding once") {
  // The clip scale is that of one stage, so the first update is too, but for rounding.
  for (const double norm : {0.05, 0.5}) {
    TrainingCase one = tied_gpt(1, 1), two = tied_gpt(1, 2);
    one.ddp.clip_norm = two.ddp.clip_norm = norm;
    one.replica.optimizer = two.replica.optimizer = {.name = "sgd", .lr = 1};
    one.steps = two.steps = 1;
    const std::vector<float> expected = parameters_of(one, train_on_cpu(one)),
                             got = parameters_of(two, train_on_cpu(two));
    REQUIRE(expected.size() == got.size());
    double largest = 0;
    for (std::size_t i = 0; i < got.size(); ++i)
      largest = std::max(largest, std::fabs(double{expected[i]} - double{got[i]}));
    CHECK(largest < 1e-6);  // counting it twice moves some by 4e-4 and more
  }
}

TEST_CASE("a tied GPT over stages resumes after any step in the same bits") {
  TrainingCase c = tied_gpt(2, 2);
  c.steps = 4;
  const Trained straight = train_on_cpu(c);
  for (const int stop : {1, 3}) {
    TrainingCase part = c;
    part.steps = stop;
    const Trained first = train_on_cpu(part);
    part.steps = 4;
    CHECK(train_on_cpu(part, &first.state).state == straight.state);
  }
}

// The cost in algorithms/replica.hpp.
TEST_CASE("first and last stage exchange one gradient of the embedding per step, others nothing") {
  TrainingCase c = tied_gpt(2, 4);
  c.steps = 3;
  const Trained trained = train_on_cpu(c);
  const std::int64_t shared = 256 * 16;
  std::vector<std::int64_t> gradients;
  for (const RankReport& rank : trained.report.ranks) {
    std::int64_t exchanged = 0, averaged = 0;
    for (const ChannelReport& channel : rank.channels) {
      if (channel.lane == "shared") {
        CHECK(channel.use.kind == Collective::exchange);
        CHECK(channel.group == "pipeline");
        CHECK(channel.use.calls == 3);
        exchanged += channel.use.bytes.value;
      }
      if (channel.lane == "gradients" && channel.use.kind == Collective::all_reduce)
        averaged += channel.use.bytes.value;
    }
    const std::int64_t held = rank.peak_by_label[static_cast<std::size_t>(Label::gradients)].value;
    CHECK(std::llabs(averaged - 3 * held) <= 60);  // 2 (n-1)/n = 1, rounded down per bucket
    CHECK((exchanged == 0 || exchanged == 3 * 4 * shared));
    gradients.push_back(exchanged == 0 ? 0 : held);
  }
  CHECK(std::count(gradients.begin(), gradients.end(), 0) == 4);  // of 8 ranks, two stages each
  // The first stage holds table and positions, the last a copy of the table and its norm.
  const std::int64_t layer =
      4 * (2 * 32 + 16 * 48 + 48 + 16 * 16 + 16 + 16 * 32 + 32 + 32 * 16 + 16);
  CHECK(*std::max_element(gradients.begin(), gradients.end()) == layer + 4 * (shared + 12 * 16));
  CHECK(std::count(gradients.begin(), gradients.end(), layer + 4 * (shared + 2 * 16)) == 2);
}

}  // namespace
}  // namespace orrery
