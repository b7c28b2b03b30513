// Parameters and FLOPs of published models, from our YAML and from config.json, to the digits in
// which they are known.
#include <doctest/doctest.h>
#include <fmt/core.h>

#include <cmath>

#include "algorithms/replica.hpp"
#include "scenarios/flop_rule.hpp"
#include "scenarios/training.hpp"
#include "sim/world.hpp"
#include "tests/scenarios/megatron_configs.hpp"
#include "tests/scenarios/root.hpp"

using namespace orrery;

namespace {

ModelSpec from_json(const std::string& keys) {
  return model_from_hugging_face(Document::parse_text(keys, "config.json"));
}

ModelSpec from_yaml(const std::string& keys) {
  return model_from_yaml(Document::parse_text("name: t\n" + keys, "t.yaml"));
}

// Six significant digits.
std::string digits(Flops flops) { return fmt::format("{:.5e}", flops.value); }

struct Llama {
  const char* name;
  std::int64_t h, layers, heads, kv_heads, f, vocabulary, sequence, parameters;
  const char *causal, *palm, *six_n;  // FLOPs per token; null: not published
};
const Llama llamas[]{{"llama-3-8b", 4096, 32, 32, 8, 14336, 128256, 8192, 8'030'261'248,
                      "5.14704e+10", "6.10665e+10", "4.81816e+10"},
                     {"llama-2-7b", 4096, 32, 32, 32, 11008, 32000, 4096, 6'738'415'616,
                      "4.28637e+10", "4.68729e+10", "4.04305e+10"},
                     {"llama-3-70b", 8192, 80, 64, 8, 28672, 128256, 8192, 70'553'706'496, nullptr,
                      nullptr, nullptr}};

std::string yaml_of(const Llama& m) {
  return fmt::format(
      "kind: transformer\nlayers: {}\nhidden: {}\nheads: {}\nkv_heads: {}\nffn: {}\n"
      "vocabulary: {}\n",
      m.layers, m.h, m.heads, m.kv_heads, m.f, m.vocabulary);
}

std::string json_of(const Llama& m) {
  return fmt::format(
      R"({{"model_type": "llama", "hidden_size": {}, "num_hidden_layers": {},
      "num_attention_heads": {}, "num_key_value_heads": {}, "intermediate_size": {},
      "vocab_size": {}, "tie_word_embeddings": false}})",
      m.h, m.layers, m.heads, m.kv_heads, m.f, m.vocabulary);
}

}  // namespace

TEST_CASE("Llamas have their published parameters and FLOPs per token by every rule") {
  for (const Llama& m : llamas) {
    CAPTURE(m.name);
    const std::int64_t d = m.h / m.heads;
    const std::int64_t matrices =
        m.layers * (m.h * d * (m.heads + 2 * m.kv_heads) + m.heads * d * m.h + 3 * m.h * m.f);
    const double attention = 12.0 * static_cast<double>(m.layers * m.h * m.sequence);
    for (const ModelSpec& spec :
         {read_model(m.name, root), from_yaml(yaml_of(m)), from_json(json_of(m))}) {
      CHECK(spec.parameters() == m.parameters);
      CHECK(spec.parameters() == 2 * m.vocabulary * m.h + matrices + m.layers * 2 * m.h + m.h);
      const auto per_token = [&](FlopRule rule) { return flops_per_token(spec, m.sequence, rule); };
      const double gemms = 6.0 * static_cast<double>(matrices + m.h * m.vocabulary);
      CHECK(per_token(FlopRule::full).value == gemms + attention);
      CHECK(per_token(FlopRule::megatron_causal).value == gemms + attention / 2);
      CHECK(per_token(FlopRule::palm).value == 6.0 * static_cast<double>(m.parameters) + attention);
      CHECK(per_token(FlopRule::six_n).value == 6.0 * static_cast<double>(m.parameters));
      if (m.causal == nullptr) continue;
      CHECK(digits(per_token(FlopRule::megatron_causal)) == m.causal);
      CHECK(digits(per_token(FlopRule::palm)) == m.palm);
      CHECK(digits(per_token(FlopRule::six_n)) == m.six_n);
    }
  }
}

TEST_CASE(
    "the GPTs of Korthikanti et al. 2022 have the published FLOPs per step, from both files") {
  struct Row {
    const char* name;
    std::int64_t batch, parameters;
    const char* flops;
  };
  for (const Row& row : {Row{"megatron-22b", 4, 22'074'273'792, "1.14356e+15"},
                         Row{"megatron-175b", 64, 174'615'846'912, "1.41092e+17"},
                         Row{"megatron-530b", 280, 529'600'819'200, "1.85223e+18"},
                         Row{"megatron-1t", 512, 1'008'038'758'400, "6.42588e+18"}}) {
    CAPTURE(row.name);
    for (const ModelSpec& model : {read_model(row.name, root), megatron_from_config(row.name)}) {
      CHECK(model.parameters() == row.parameters);
      CHECK(digits(flops_per_step(model, 2048, row.batch, FlopRule::full)) == row.flops);
    }
  }
}

TEST_CASE("the kernels of the 22B GPT are its published FLOPs") {
  const UniformMachine machine(UniformSpec{});
  SimOptions sim;
  sim.machine = &machine;
  make_sim_world(WorldOptions{}, sim)->run([&](Rank& rank) {
    const Scenario scenario = read_scenario(
        Document::parse_text("model: megatron-22b\n"
                             "data: {sequence: 2048, global_batch: 4, micro_batch: 4}\n"
                             "platform: {cluster: two-dgx-a100, gpus: 1}\n",
                             "cost.yaml"),
        root);
    const Model model = make_model(scenario, nullptr);
    for (const auto& block : model.blocks) block->prepare(rank);
    CHECK(digits(model.flops_per_micro_batch()) == "1.14356e+15");
  });
}

TEST_CASE("a forward of a layer is the GEMMs and attention of the table of its operations") {
  // T = b s tokens: QKV 2 T h d (a + 2 k), scores and values 4 b s^2 a d, output 2 T a d h, MLP
  // 4 T h f or 6 T h f, logits 2 T h V; a backward is twice that.
  const double h = 4096, d = 128, a = 32, k = 8, f = 14336, v = 128256, s = 512, t = 2 * s;
  const double layer =
      2 * t * h * d * (a + 2 * k) + 4 * 2 * s * s * a * d + 2 * t * a * d * h + 6 * t * h * f;
  const UniformMachine machine(UniformSpec{});
  SimOptions sim;
  sim.machine = &machine;
  make_sim_world(WorldOptions{}, sim)->run([&](Rank& rank) {
    const Scenario scenario = read_scenario(
        Document::parse_text("model: llama-3-8b\n"
                             "data: {sequence: 512, global_batch: 2, micro_batch: 2}\n"
                             "platform: {cluster: two-dgx-a100, gpus: 1}\n",
                             "cost.yaml"),
        root);
    const Model model = make_model(scenario, nullptr);
    for (const auto& block : model.blocks) block->prepare(rank);
    CHECK(model.blocks[0]->forward_flops().value == 0);
    CHECK(model.blocks[1]->forward_flops().value == layer);
    CHECK(model.blocks[1]->backward_flops().value == 2 * layer);
    CHECK(model.blocks.back()->forward_flops().value == 2 * t * h * v);
    CHECK(model.blocks.back()->backward_flops().value == 4 * t * h * v);
  });
}

TEST_CASE("AdamW in bf16 keeps 18 bytes per parameter, and 16 with gradients in bf16") {
  const UniformMachine machine(UniformSpec{});
  SimOptions sim;
  sim.machine = &machine;
  const RunReport report = make_sim_world(WorldOptions{}, sim)->run([&](Rank& rank) {
    for (const auto& [reduction, bytes] : {std::pair{"fp32", std::int64_t{18}}, {"bf16", 16}}) {
      const Scenario scenario = read_scenario(
          Document::parse_text("model: gpt2\n"
                               "data: {sequence: 64, global_batch: 1, micro_batch: 1}\n"
                               "precision: {reduction: " +
                                   std::string(reduction) +
                                   "}\nplatform: {cluster: two-dgx-a100, gpus: 1}\n",
                               "state.yaml"),
          root);
      const std::int64_t before = rank.ledger(Place::device).used().value;
      ReplicaOptions options;
      options.gradient_dtype = scenario.precision.reduction;
      const Replica replica(rank, make_model(scenario, nullptr), options);
      const std::int64_t state = rank.ledger(Place::device).used().value - before;
      // Besides: the optimizer's step counter and the batch's cursor, and a prepared kernel's
      // workspace.
      CHECK(state >= bytes * 124'439'808);
      CHECK(state < bytes * 124'439'808 + 1'000'000);
    }
  });
}

TEST_CASE("residual networks described in YAML cost three times their multiply-adds to train") {
  struct Row {
    int depth;
    bool small;
    std::int64_t parameters;
    double multiply_adds, first;  // of the first layer, whose input needs no gradient
  };
  const double stem = 3 * 64 * 49 * 112 * 112, small_stem = 3 * 64 * 9 * 32 * 32;
  for (const Row& row : {Row{18, false, 11'689'512, 1'814'073'344, stem},
                         Row{34, false, 21'797'672, 3'663'761'408, stem},
                         Row{50, false, 25'557'032, 4'089'184'256, stem},
                         Row{18, true, 11'173'962, 555'422'720, small_stem},
                         Row{34, true, 21'282'122, 1'159'402'496, small_stem},
                         Row{50, true, 23'520'842, 1'297'829'888, small_stem}}) {
    CAPTURE(row.depth);
    CAPTURE(row.small);
    const ModelSpec model =
        from_yaml(fmt::format("kind: resnet\ndepth: {}\n{}", row.depth,
                              row.small ? "image: 32\nclasses: 10\nsmall_images: true\n" : ""));
    CHECK(model.parameters() == row.parameters);
    CHECK(flops_per_step(model, 1, 7, FlopRule::full).value ==
          7 * 2 * (3 * row.multiply_adds - row.first));
  }
}

TEST_CASE("a Fourier operator described in YAML has the parameters and FLOPs of its formula") {
  // w = 32 channels, N = 64 x 64 points, K = 2 x 12 x 12 modes: per layer 2 w^2 K + w^2 + w
  // parameters, 8 w^2 K and 2 N w^2 FLOPs; a lifting from and a projection to one channel.
  const ModelSpec model =
      from_yaml("kind: fno\ngrid: [64, 64]\nmodes: [12, 12]\nwidth: 32\nlayers: 4\n");
  CHECK(model.parameters() == 4 * (589'824 + 1'056) + (32 + 32) + (32 + 1));
  const double layers = 4 * (2'359'296.0 + 8'388'608.0), ends = 2 * 4096 * 32;
  CHECK(flops_per_step(model, 1, 5, FlopRule::full).value ==
        5 * (3 * layers + 2 * ends + 3 * ends));
}
