// Which scenarios write gradients instead of adding them to zeros: those of one replica in one
// pipeline stage, with one micro-batch per step.
#include <doctest/doctest.h>

#include <algorithm>

#include "backend/cpu/bodies.hpp"
#include "backend/cpu/world.hpp"
#include "scenarios/training.hpp"
#include "tests/scenarios/root.hpp"

using namespace orrery;

namespace {

struct Plan {
  std::string algorithm;
  int micro_batches = 1, pipeline = 1;
};

Scenario scenario_of_plan(const Plan& plan) {
  Document d = Document::parse_text(
      "model: gpt-bytes\n"
      "data: {sequence: 16, micro_batch: 1, text: gpl-3}\n"
      "precision: {activations: fp32, parameters: fp32, reduction: fp32}\n"
      "run: {values: real, steps: 2, seed: 1}\n",
      "written.yaml");
  d.set("algorithm={name: " + plan.algorithm + ", optimizer: {name: adamw, lr: 3e-3}}");
  d.set("data.global_batch=" + std::to_string(plan.micro_batches));
  d.set("parallel={pipeline: " + std::to_string(plan.pipeline) + "}");
  d.set("platform={cluster: this-cpu, stack: cpu-world, gpus: " + std::to_string(plan.pipeline) +
        "}");
  return read_scenario(d, root);
}

bool writes(const Plan& plan) {
  const Model model = make_model(scenario_of_plan(plan), nullptr);
  return std::any_of(model.blocks.begin(), model.blocks.end(), [](const auto& block) {
    const auto& all = block->parameters();
    return std::any_of(all.begin(), all.end(), [](const auto& spec) { return spec.written; });
  });
}

// By step, of the ranks that compute it.
std::vector<double> losses(const Plan& plan) {
  const Scenario scenario = scenario_of_plan(plan);
  WorldOptions options = world_options(scenario);
  options.bodies = &cpu_bodies();
  const RunReport report = make_cpu_world(std::move(options))->run(training_program(scenario));
  std::vector<double> all;
  for (const RankReport& rank : report.ranks)
    for (const auto& [step, loss] : rank.losses) all.push_back(loss);
  return all;
}

}  // namespace

TEST_CASE("one replica writes the gradients of a step's only micro-batch, in one stage") {
  CHECK(writes({"none"}));
  CHECK_FALSE(writes({"none", 2}));
  CHECK_FALSE(writes({"none", 1, 2}));
  CHECK_FALSE(writes({"ddp"}));
}

TEST_CASE("whether gradients are written or not, one replica learns the same") {
  for (const Plan& plan : {Plan{"none"}, Plan{"none", 2}, Plan{"none", 1, 2}}) {
    CAPTURE(plan.micro_batches);
    CAPTURE(plan.pipeline);
    const std::vector<double> learned = losses(plan);
    REQUIRE(learned.size() == 2);
    CHECK(learned[0] != learned[1]);
    CHECK(learned == losses({"ddp", plan.micro_batches, plan.pipeline}));
  }
}
