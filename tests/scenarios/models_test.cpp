// The models of scenarios/models: every parameter counted.
#include <doctest/doctest.h>

#include <map>

#include "scenarios/model_spec.hpp"
#include "tests/scenarios/root.hpp"

using namespace orrery;

TEST_CASE("every model of the folder reads without a guess and has parameters and layers") {
  for (const std::string& name : model_names(root)) {
    CAPTURE(name);
    const ModelSpec model = read_model(name, root);
    CHECK(model.name == name);
    CHECK(model.warnings.empty());
    CHECK(model.parameters() > 0);
    CHECK(model.layers() > 0);
  }
}

TEST_CASE("models that people know have exactly the published number of parameters") {
  // Of published weights; embeddings that are shared count once.
  const std::map<std::string, std::int64_t> counts{
      {"deepseek-v3", 671'026'419'200}, {"gpt2", 124'439'808},
      {"gpt2-xl", 1'557'611'200},       {"gpt-neox-20b", 20'554'567'680},
      {"gpt-neo-125m", 125'198'592},    {"gpt-neo-2.7b", 2'651'307'520},
      {"llama-2-7b", 6'738'415'616},    {"llama-3-70b", 70'553'706'496},
      {"llama-3-8b", 8'030'261'248},    {"llama-3.1-405b", 405'853'388'800},
      {"llama-3.2-1b", 1'235'814'400},  {"mistral-7b", 7'241'732'096},
      {"mixtral-8x7b", 46'702'792'704}, {"pythia-1b", 1'011'781'632},
      {"qwen2.5-7b", 7'615'616'512},    {"qwen3-30b-a3b", 30'532'122'624},
      {"qwen3-8b", 8'190'735'360},
  };
  for (const auto& [name, parameters] : counts) {
    CAPTURE(name);
    CHECK(read_model(name, root).parameters() == parameters);
  }
}

TEST_CASE("a token passes as many parameters of a mixture as its authors say") {
  // 12.9 B (arXiv 2401.04088), 37 B (arXiv 2412.19437), 3.3 B (arXiv 2505.09388).
  const std::map<std::string, std::int64_t> counts{{"mixtral-8x7b", 12'879'925'248},
                                                   {"deepseek-v3", 37'552'297'472},
                                                   {"qwen3-30b-a3b", 3'353'032'704}};
  for (const auto& [name, parameters] : counts) {
    CAPTURE(name);
    CHECK(read_model(name, root).active_parameters() == parameters);
  }
  const ModelSpec dense = read_model("llama-3-8b", root);
  CHECK(dense.active_parameters() == dense.parameters());
}

TEST_CASE("latent attention and experts count as DeepSeek-V3's report says") {
  const TransformerSpec t = read_model("deepseek-v3", root).transformer;
  const std::int64_t h = 7168, heads = 128;
  const std::int64_t attention =
      h * 1536 + 1536 * heads * 192 + h * (512 + 64) + 512 * heads * (128 + 128) + heads * 128 * h;
  const std::int64_t expert = 3 * h * 2048;
  CHECK(t.layer_multiply_adds() ==
        61 * attention + 3 * 3 * h * 18432 + 58 * (h * 256 + 9 * expert));
  CHECK(t.attention_multiply_adds() == 61 * heads * (192 + 128));
  CHECK(t.layer_parameters() == 61 * (attention + 1536 + 512 + 2 * h) + 3 * 3 * h * 18432 +
                                    58 * (h * 256 + 256 + 257 * expert));
}

TEST_CASE(
    "the GPT models of Megatron's papers have 12 L h^2 + 13 L h + (V + s) h + 2 h parameters") {
  struct Row {
    const char* name;
    std::int64_t layers, hidden, heads, vocabulary, parameters;
  };
  // Brown et al. 2020, table 2.1, and Korthikanti et al. 2022, table 3.
  const Row rows[]{{"gpt3-175b", 96, 12288, 96, 50257, 174'604'259'328},
                   {"megatron-22b", 48, 6144, 64, 51200, 22'074'273'792},
                   {"megatron-175b", 96, 12288, 96, 51200, 174'615'846'912},
                   {"megatron-530b", 105, 20480, 128, 51200, 529'600'819'200},
                   {"megatron-1t", 128, 25600, 160, 51200, 1'008'038'758'400}};
  for (const Row& row : rows) {
    CAPTURE(row.name);
    const ModelSpec model = read_model(row.name, root);
    CHECK(model.transformer.heads == row.heads);
    CHECK(model.parameters() == row.parameters);
    const std::int64_t l = row.layers, h = row.hidden;
    CHECK(row.parameters == 12 * l * h * h + 13 * l * h + (row.vocabulary + 2048) * h + 2 * h);
  }
}
