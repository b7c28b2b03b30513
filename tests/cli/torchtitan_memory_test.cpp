// What PyTorch's allocator held in torchtitan's benchmarks, as printed, against what it would hold
// for the simulated ranks. Nothing is fitted on these cases: what is modelled is in
// algorithms/models/every_second.hpp, LanguageHead (transformer_ends.cpp), algorithms/fsdp.cpp (per
// parameter), algorithms/pipeline/executor.hpp (keeps_received) and
// scenarios/cli/caching_allocator.hpp, each with its source.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "scenarios/cli/stage_memory.hpp"
#include "scenarios/published/prediction.hpp"

using namespace orrery;

TEST_CASE(
    "the memory of torchtitan's benchmarks is predicted to 8 %, but for those that are told") {
  // Beyond: errors as they are, so that a change for the worse or the better shows.
  // titan-t5-1f1b has the plan and the tokens of titan-t6-cp1, and 7 GiB more, for no printed
  // reason.
  const std::map<std::string, double> beyond{{"titan-t5-1f1b", -0.120}};
  const Predictor predictor(ORRERY_SOURCE_DIR);
  const MeasuredFile file =
      read_measured_file(std::string(ORRERY_SOURCE_DIR) + "/scenarios/published/torchtitan.yaml");
  int within = 0;
  for (MeasuredCase c : file.cases) {
    if (!c.mem_gib_reported) continue;
    // A part with 96 GB that no file describes; what a rank holds does not depend on it.
    if (word(c.gpu).starts_with("H100-96GB")) c.gpu = Node::scalar("NVIDIA H100 SXM");
    CAPTURE(c.id);
    const Prediction prediction = predictor.predict(file, c);
    REQUIRE_MESSAGE(prediction.scenario, prediction.skipped);
    Bytes cached;
    for (const cli::StageMemory& stage : cli::stages_of(*prediction.scenario))
      cached = std::max(cached, stage.memory.cached);
    const double error = static_cast<double>(cached.value) / (1 << 30) / *c.mem_gib_reported - 1;
    CAPTURE(error);
    if (const auto told = beyond.find(c.id); told != beyond.end()) {
      CHECK(std::fabs(error - told->second) < 0.002);
      continue;
    }
    CHECK(std::fabs(error) <= 0.08);
    ++within;
  }
  CHECK(within + static_cast<int>(beyond.size()) == 14);
}
