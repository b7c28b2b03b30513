// Every committed model: the kernels that train it have the parameters and FLOPs of its closed
// forms, to the digit.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>

#include "backend/core/error.hpp"
#include "backend/core/text.hpp"
#include "scenarios/training.hpp"
#include "sim/world.hpp"
#include "tests/scenarios/root.hpp"

using namespace orrery;

namespace {

// One micro-batch of two short samples on one GPU.
Scenario scenario_of(const std::string& model) {
  Document d = Document::parse_text("model: " + model +
                                        "\ndata: {global_batch: 2, micro_batch: 2}\n"
                                        "platform: {cluster: two-dgx-a100, gpus: 1}\n",
                                    "cost.yaml");
  if (read_model(model, root).kind == ModelKind::transformer) d.set("data.sequence=96");
  return read_scenario(d, root);
}

std::int64_t parameters(const std::string& model) {
  return make_model(scenario_of(model), nullptr).parameter_elements();
}

// With the biases of routers, which are counted as parameters but no optimizer steps.
std::int64_t with_biases(const std::string& model) {
  std::int64_t all = 0;
  for (const auto& block : make_model(scenario_of(model), nullptr).blocks) {
    all += block->parameter_elements();
    for (const ParameterSpec& spec : block->state())
      if (spec.name == "router.bias") all += spec.elements;
  }
  return all;
}

std::string hugging_face(const std::string& keys) {
  const std::string file =
      (std::filesystem::temp_directory_path() / "orrery_model_cost_test" / "config.json").string();
  std::filesystem::create_directories(std::filesystem::path(file).parent_path());
  std::ofstream(file) << keys;
  return file;
}

}  // namespace

TEST_CASE("every committed model has as many parameters as its file says") {
  for (const std::string& name : model_names(root)) {
    CAPTURE(name);
    CHECK(with_biases(name) == read_model(name, root).parameters());
  }
}

TEST_CASE("models built from config.json have their published parameters") {
  CHECK(parameters(hugging_face(
            R"({"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32,
      "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
      "vocab_size": 128256})")) == 8'030'261'248);
  CHECK(parameters(hugging_face(
            R"({"model_type": "llama", "hidden_size": 8192, "num_hidden_layers": 80,
      "num_attention_heads": 64, "num_key_value_heads": 8, "intermediate_size": 28672,
      "vocab_size": 128256})")) == 70'553'706'496);
  CHECK(parameters(hugging_face(
            R"({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12,
      "n_positions": 1024, "vocab_size": 50257})")) == 124'439'808);
  CHECK(parameters(hugging_face(
            R"({"model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28,
      "num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944,
      "vocab_size": 152064})")) == 7'615'616'512);
}

TEST_CASE("of DeepSeek-V3's parameters 256 in each of 58 layers are biases of routers") {
  CHECK(read_model("deepseek-v3", root).parameters() == 671'026'419'200);
  CHECK(parameters("deepseek-v3") == 671'026'419'200 - 58 * 256);
}

TEST_CASE("the FLOPs of every committed model's kernels are those of the rule `full`") {
  const UniformMachine machine(UniformSpec{});
  SimOptions sim;
  sim.machine = &machine;
  WorldOptions options;
  make_sim_world(options, sim)->run([&](Rank& rank) {
    for (const std::string& name : model_names(root)) {
      CAPTURE(name);
      const Scenario scenario = scenario_of(name);
      const Model model = make_model(scenario, nullptr);
      for (const auto& block : model.blocks) block->prepare(rank);
      // Latent attention's values are padded to the size of queries (latent_attention.hpp).
      const TransformerSpec& t = scenario.model_spec.transformer;
      const std::int64_t padding = t.latent() ? t.layers * t.heads * (t.head_size - t.v_head) : 0;
      const double sequence = static_cast<double>(*scenario.data.sequence);
      CHECK(model.flops_per_micro_batch() ==
            scenario.flops_per_step() +
                Flops(6.0 * static_cast<double>(padding * scenario.tokens_per_step()) * sequence));
    }
  });
  CHECK(model_names(root).size() >= 20);
}
