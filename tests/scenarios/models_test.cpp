// The models of scenarios/models: every parameter counted.
#include <doctest/doctest.h>

#include <map>

#include "scenarios/model_spec.hpp"

using namespace orrery;

namespace {

const std::string root = ORRERY_SOURCE_DIR;

}  // namespace

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
      {"gpt2", 124'439'808},
      {"gpt2-xl", 1'557'611'200},
      {"gpt-neox-20b", 20'554'567'680},
      {"llama-2-7b", 6'738'415'616},
      {"llama-3-70b", 70'553'706'496},
      {"llama-3-8b", 8'030'261'248},
      {"llama-3.1-405b", 405'853'388'800},
      {"llama-3.2-1b", 1'235'814'400},
      {"mistral-7b", 7'241'732'096},
      {"pythia-1b", 1'011'781'632},
      {"qwen2.5-7b", 7'615'616'512},
  };
  for (const auto& [name, parameters] : counts) {
    CAPTURE(name);
    CHECK(read_model(name, root).parameters() == parameters);
  }
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
