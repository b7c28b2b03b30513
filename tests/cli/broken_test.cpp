// Broken scenarios, platform files and models: what each is told, where, and with which exit code.
#include <doctest/doctest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/cli/process.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

// One message about a file of tests/cli/broken; a file may have several, in this order.
struct Expected {
  const char* file;
  int line, column;
  const char* text;        // part of the message
  const char* suggestion;  // part of it; "": there is none
};

const std::vector<Expected> expected{
    {"a_list.yaml", 1, 1, "expected a mapping, got a list", ""},
    {"bare_size.yaml", 4, 21,
     "algorithm.bucket: expected a size such as 25GB, got the bare number '25000000'",
     "give a unit, as in 25GB"},
    {"cluster_bad_source.yaml", 2, 16,
     "source.kind: 'guessed' is not one of datasheet, measured, fitted, assumed", ""},
    {"cluster_bare_latency.yaml", 4, 75,
     "fabric.hop_latency: expected a time such as 5us or 2.5ms, got the bare number '130'",
     "give a unit, as in 5us"},
    {"cluster_datasheet_without_table.yaml", 2, 1,
     "missing key 'table' in source: a datasheet source needs it", ""},
    {"cluster_negative_latency.yaml", 4, 75, "fabric.hop_latency: -130ns is out of range",
     "must be not negative"},
    {"cluster_no_parts.yaml", 3, 1, "parts: has 0 items", "must have at least 1"},
    {"cluster_no_source.yaml", 2, 33, "no source for parts[0].count",
     "give {value: ..., source: {kind: ...}}, or a 'source' in a mapping around it"},
    {"cluster_no_source.yaml", 3, 38, "no source for fabric.levels",
     "give {value: ..., source: {kind: ...}}, or a 'source' in a mapping around it"},
    {"cluster_no_source.yaml", 3, 59, "no source for fabric.oversubscription",
     "give {value: ..., source: {kind: ...}}, or a 'source' in a mapping around it"},
    {"cluster_no_source.yaml", 3, 75, "no source for fabric.hop_latency",
     "give {value: ..., source: {kind: ...}}, or a 'source' in a mapping around it"},
    {"cluster_unknown_curve.yaml", 5, 24, "unknown curve 'nccl-a100-80'",
     "did you mean 'nccl-a100-8'?"},
    {"cluster_unknown_node.yaml", 3, 16, "unknown node 'dgx-a1000'", "did you mean 'dgx-a100'?"},
    {"cluster_unknown_stack.yaml", 5, 8, "unknown stack 'generik'", "did you mean 'generic'?"},
    {"cluster_wrong_topology.yaml", 4, 20, "fabric.topology: 'fat-three' is not one of fat-tree",
     "did you mean 'fat-tree'?"},
    {"duplicate_key.yaml", 4, 1, "duplicate key 'model'", "first given in line 1"},
    {"empty.yaml", 1, 1, "missing key 'model'", "a name in scenarios/models"},
    {"empty.yaml", 1, 1, "missing key 'data'", ""},
    {"empty.yaml", 1, 1, "missing key 'platform'", ""},
    {"foreign_option.yaml", 4, 47, "algorithm.optimizer.beta1: sgd has no beta1",
     "it belongs to adamw"},
    {"fraction_of_gpu.yaml", 3, 41, "platform.gpus: expected a whole number, got '1.5'", ""},
    {"indivisible_batch.yaml", 2, 24,
     "250 samples do not divide by data parallel 16 x micro_batch 4 = 64", "use 192 or 256"},
    {"indivisible_stages.yaml", 4, 12, "16 layers of llama-3.2-1b do not divide into 3 stages",
     "use 2 or 4"},
    {"indivisible_stages.yaml", 4, 12, "16 GPUs do not divide by tensor x context x pipeline = 3",
     "use 15 or 18 GPUs"},
    {"merge_key.yaml", 5, 10, "merge keys ('<<') are not supported", "write the keys out"},
    {"missing_data.yaml", 1, 1, "missing key 'data'", ""},
    {"missing_model.yaml", 1, 1, "missing key 'model'", "a name in scenarios/models"},
    {"missing_sequence.yaml", 2, 1, "missing key 'sequence' in data",
     "a transformer needs the tokens per sample"},
    {"mlp_sequence.yaml", 2, 8, "64 tokens per sample, but model mlp-bytes looks at 16",
     "leave it out"},
    {"model_a_list.json", 1, 1, "expected a mapping, got a list", ""},
    {"model_heads_do_not_divide.json", 1, 1,
     "30 attention heads do not divide the hidden size 2048",
     "head_dim would say how large they are"},
    {"model_heads_do_not_divide.json", 7, 3, "8 key-value heads do not divide 30 heads", ""},
    {"model_kv_heads_do_not_divide.json", 7, 3, "5 key-value heads do not divide 32 heads", ""},
    {"model_negative_size.json", 3, 18, "hidden_size: -2048 is out of range",
     "must be at least 1, at most 1000000"},
    {"model_no_layers.json", 1, 1, "config.json does not say the number of layers",
     "it is called num_hidden_layers or num_layers or n_layer"},
    {"model_not_json.json", 8, 24, "a key must be a plain string", ""},
    {"model_text_size.json", 3, 18, "hidden_size: expected a whole number, got the text 'large'",
     "drop the quotes"},
    {"model_unknown_key.yaml", 1, 1, "missing key 'hidden'", ""},
    {"model_unknown_key.yaml", 5, 1, "unknown key 'hiden'", "did you mean 'hidden'?"},
    {"not_a_number.yaml", 4, 14, "run.steps: expected a whole number, got 'three'", ""},
    {"not_yaml.yaml", 4, 6, "YAML syntax: end of map flow not found", "opened here"},
    {"octal_number.yaml", 4, 14,
     "run.steps: expected a whole number, got '010' with a leading zero",
     "numbers are decimal; drop the zero"},
    {"tagged_value.yaml", 4, 13, "tags such as '!!str' are not used here",
     "quote a value to make it a string"},
    {"tagged_value.yaml", 4, 13, "run.seed: expected a whole number, got the text '1'",
     "drop the quotes"},
    {"three_errors.yaml", 1, 1, "unknown key 'modell'", "did you mean 'model'?"},
    {"three_errors.yaml", 1, 1, "missing key 'model'", "a name in scenarios/models"},
    {"three_errors.yaml", 4, 7, "unknown key 'step' in run", "did you mean 'steps'?"},
    {"three_errors.yaml", 4, 22, "run.seed: -1 is out of range", "must be at least 0"},
    {"too_many_gpus.yaml", 3, 35, "17 GPUs asked for, but cluster two-dgx-a100 has 16",
     "use at most 16"},
    {"unknown_algorithm.yaml", 4, 13, "unknown algorithm 'dpp'", "did you mean 'ddp'?"},
    {"unknown_cluster.yaml", 3, 21, "unknown cluster 'two-dgx-a10'",
     "did you mean 'two-dgx-a100'?"},
    {"unknown_key.yaml", 4, 1, "unknown key 'paralel'", "did you mean 'parallel'?"},
    {"unknown_model.yaml", 1, 8, "unknown model 'llama-3.2-1B-instruct'", "known are"},
    {"unknown_schedule.yaml", 4, 35, "'1fb1' is not one of gpipe, 1f1b", "did you mean '1f1b'?"},
    {"unknown_text.yaml", 2, 44, "no text 'gpl3'", "did you mean 'gpl-3'?"},
    {"values_without_text.yaml", 5, 7, "real values need a text to learn from",
     "set data.text, for instance to gpl-3"},
    {"wrong_unit.yaml", 4, 21,
     "algorithm.bucket: expected a size such as 25GB, got the unit 'GBps'",
     "give a unit, as in 25GB"},
    {"zero_steps.yaml", 4, 14, "run.steps: 0 is out of range",
     "must be at least 1, at most 1000000000"},
};

std::string path_of(const std::string& file) { return "tests/cli/broken/" + file; }

// Clusters and models are put into a scenario that names no stack, and into the quickstart.
std::vector<std::string> command_for(const std::string& file) {
  if (file.starts_with("cluster_"))
    return {"check", "scenarios/mlp-ddp.yaml", "--json", "--set",
            "platform.cluster=" + path_of(file)};
  if (file.starts_with("model_"))
    return {"check", quickstart, "--json", "--set", "model=" + path_of(file)};
  return {"check", path_of(file), "--json"};
}

}  // namespace

TEST_CASE(
    "broken files are refused with the message, the place and the exit code documented here") {
  for (std::size_t at = 0; at < expected.size();) {
    const std::string file = expected[at].file;
    CAPTURE(file);
    const Finished run = orrery_with(command_for(file));
    CHECK(run.exit == 3);
    const Json result = run.json<Json>();
    REQUIRE(!result["error"]["messages"].empty());
    for (const Json& message : result["error"]["messages"]) {
      CAPTURE(message.dump());
      REQUIRE(at < expected.size());
      const Expected& e = expected[at++];
      CHECK(file == e.file);
      CHECK(message["file"] == path_of(file));
      CHECK(message["line"] == e.line);
      CHECK(message["column"] == e.column);
      CHECK(contains(message["text"], e.text));
      const bool advised = !message["suggestion"].is_null();
      CHECK(advised == (*e.suggestion != '\0'));
      if (advised) CHECK(contains(message["suggestion"], e.suggestion));
    }
    CHECK((at == expected.size() || file != expected[at].file));
  }
}

TEST_CASE("every broken file is expected to be told something, and there are at least 40") {
  std::set<std::string> there, known;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(ORRERY_SOURCE_DIR) + "/tests/cli/broken"))
    there.insert(entry.path().filename().string());
  for (const Expected& e : expected) known.insert(e.file);
  CHECK(there == known);
  CHECK(known.size() >= 40);
}

TEST_CASE("on a terminal, an error shows the line, a caret and what was meant") {
  const Finished run = orrery_with({"check", path_of("unknown_key.yaml")});
  CHECK(run.exit == 3);
  CHECK(run.out.empty());
  CHECK(contains(run.err, "error[config]: unknown key 'paralel'"));
  CHECK(contains(run.err, "--> tests/cli/broken/unknown_key.yaml:4:1"));
  CHECK(contains(run.err, "^^^^^^^ did you mean 'parallel'?"));
}
