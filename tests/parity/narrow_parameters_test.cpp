// Workers whose parameters are narrower than their weights: what they compute with after a meeting.
#include <doctest/doctest.h>

#include <cstring>

#include "tests/support/algorithm_run.hpp"

namespace orrery {
namespace {

Model small_bf16_mlp(Rank&, int micro_batches) {
  return make_mlp({.context = 4,
                   .embedding = 4,
                   .hidden = 12,
                   .layers = 4,
                   .vocabulary = 256,
                   .micro_batch = 2,
                   .micro_batches = micro_batches,
                   .dtype = Dtype::bf16},
                  test_text());
}

// Every algorithm of islands, so that a meeting is the last that happens in `steps` steps. Steps
// are large enough that a meeting moves most parameters to other numbers of bf16.
AlgorithmCase meeting_last(const std::string& name, const std::string& more, std::int64_t steps) {
  AlgorithmCase c;
  c.algorithm = "{name: " + name + ", inner_steps: 4, " + more +
                "inner: {optimizer: {name: adamw, lr: 0.05}}}";
  c.model = small_bf16_mlp;
  c.steps = steps;
  return c;
}

std::vector<std::uint16_t> computed_with(const WorldResult& result, std::size_t rank) {
  const auto& bytes = result.notes.at(rank).checkpoints.at(0).fields.at("replica.parameters");
  std::vector<std::uint16_t> values(bytes.size() / sizeof(std::uint16_t));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

}  // namespace

TEST_CASE("after a meeting, workers with parameters in bf16 compute with their rounded weights") {
  for (const AlgorithmCase& c :
       {meeting_last("local-sgd", "", 8), meeting_last("slowmo", "", 8),
        meeting_last("diloco", "", 8),
        // Two fragments of all six blocks; the second is applied after step 2 + 4 + 1.
        meeting_last("streaming-diloco", "fragment_layers: 3, overlap: 1, ", 7),
        meeting_last("streaming-diloco", "fragment_layers: 0, overlap: 0, codec: {name: fp32}, ",
                     8)}) {
    CAPTURE(c.algorithm);
    for (const WorldResult& result :
         {run_in_sim(setup_of(c), training_of(c)), run_in_cpu(setup_of(c), training_of(c))}) {
      REQUIRE_MESSAGE(!result.error, why(result));
      for (std::size_t rank = 0; rank < result.notes.size(); ++rank) {
        const std::vector<float> weights = state_of(result, rank, "replica.optimizer.master");
        const std::vector<std::uint16_t> here = computed_with(result, rank);
        REQUIRE(here.size() == weights.size());
        std::size_t wrong = 0;
        for (std::size_t j = 0; j < here.size(); ++j)
          wrong += here[j] == to_bf16(weights[j]) ? 0 : 1;
        CHECK(wrong == 0);
      }
    }
  }
}

// Each of two ranks of a worker steps, and takes to a meeting, its half of the weights; after it
// both have all of them.
TEST_CASE(
    "workers that divide optimizer state compute with the rounded weights of all their ranks") {
  for (const std::string outer : {"local-sgd", "slowmo", "diloco",
                                  "streaming-diloco, fragment_layers: 0, overlap: 0, mixing: 0"})
    for (const std::string stage : {"1", "2"}) {
      AlgorithmCase c;
      c.algorithm = "{name: " + outer +
                    ", inner_steps: 4, workers: 2, inner: {name: zero, stage: " + stage +
                    ", optimizer: {name: adamw, lr: 0.05}}}";
      c.model = small_bf16_mlp;
      c.steps = 8;
      CAPTURE(c.algorithm);
      for (const WorldResult& result :
           {run_in_sim(setup_of(c), training_of(c)), run_in_cpu(setup_of(c), training_of(c))}) {
        REQUIRE_MESSAGE(!result.error, why(result));
        std::vector<std::uint16_t> rounded;
        for (const std::size_t rank : {0U, 1U})
          for (const float weight : state_of(result, rank, "replica.optimizer.master"))
            rounded.push_back(to_bf16(weight));
        for (std::size_t rank = 0; rank < 4; ++rank) {
          CHECK(computed_with(result, rank) == rounded);
          CHECK(sent_by_cost_block(result, rank) == sent(result, rank));
        }
      }
    }
}

TEST_CASE("fragments of workers that divide optimizer state are gathered group by group") {
  AlgorithmCase c;
  // A group each; workers agree on what they met for last, and on nothing else.
  c.algorithm =
      "{name: streaming-diloco, inner_steps: 6, fragment_layers: 1, overlap: 1, workers: 2, "
      "mixing: 0, codec: {name: fp32}, inner: {name: zero, bucket: 0B}}";
  c.model = small_bf16_mlp;
  c.steps = 13;
  const WorldResult result = run_in_sim(setup_of(c), training_of(c));
  REQUIRE_MESSAGE(!result.error, why(result));
  for (std::size_t rank = 0; rank < 4; ++rank)
    CHECK(sent_by_cost_block(result, rank) == sent(result, rank));
  CHECK(computed_with(result, 0) == computed_with(result, 1));
  CHECK(computed_with(result, 2) == computed_with(result, 3));
  CHECK(computed_with(result, 0) != computed_with(result, 2));
}

}  // namespace orrery
