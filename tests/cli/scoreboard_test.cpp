// `orrery scoreboard`: its table, its JSON, its errors, and the cases that must be scored.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "backend/core/text.hpp"
#include "tests/cli/process.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

// Four steps, of which two are the same, two kernels, and one of another kind.
const std::string planted =
    "source: {title: Planted, repo: some/where}\n"
    "defaults: {layers: 2, hidden: 512, heads: 8, vocab: 1024, seq_len: 256, gpu: A100-80GB-SXM,\n"
    "  gpus_per_node: 8, tp: 1, pp: 1, micro_batch: 1, precision: bf16, recompute: none,\n"
    "  sharding: ddp}\n"
    "cases:\n"
    "- {id: one, kind: train_step, gpus: 1, dp: 1, global_batch: 1, iter_s: 0.01}\n"
    "- {id: same, kind: train_step, gpus: 1, dp: 1, global_batch: 1, iter_s: 0.02}\n"
    "- {id: two, kind: train_step, gpus: 2, dp: 2, global_batch: 8, iter_s: 0.01}\n"
    "- {id: split, kind: train_step, gpus: 3, tp: 3, dp: 1, global_batch: 8, iter_s: 0.01}\n"
    "- {id: g, kind: gemm, m: 4096, n: 4096, k: 4096, time_s: 0.001}\n"
    "- {id: h, kind: latency}\n";

std::vector<std::string> keys_of(const Json& object) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.push_back(key);
  return keys;
}

std::string file_in(const TemporaryFolder& folder, const std::string& name,
                    const std::string& text) {
  write_file_atomically(folder.file(name), text);
  return folder.file(name);
}

}  // namespace

TEST_CASE("the scoreboard's JSON has the form of its schema and the same bytes every time") {
  const TemporaryFolder folder;
  const std::string file = file_in(folder, "planted.yaml", planted);
  const Finished done = orrery_with({"scoreboard", file, "--json"});
  REQUIRE_MESSAGE(done.exit == 0, done.err);
  CHECK(orrery_with({"scoreboard", file, "--json"}).out == done.out);
  const Json j = done.json<Json>();
  CHECK(keys_of(j) == std::vector<std::string>{"schema", "cases", "files"});
  CHECK(j["schema"] == "orrery.scoreboard/1");
  REQUIRE(j["cases"].size() == 6);
  for (const Json& c : j["cases"]) {
    CHECK(keys_of(c) == std::vector<std::string>{"id", "file", "kind", "unit", "measured",
                                                 "predicted", "error", "low", "high", "skipped",
                                                 "assumptions"});
    CHECK(c["file"] == "planted.yaml");
    CHECK(c["low"].is_null());
    if (!c["skipped"].is_null()) {
      CHECK(c["predicted"].is_null());
      CHECK(c["error"].is_null());
      continue;
    }
    const double measured = c["measured"], predicted = c["predicted"];
    CHECK(predicted > 0);
    CHECK(c["error"] == predicted / measured - 1);
    for (const Json& a : c["assumptions"])
      CHECK(keys_of(a) == std::vector<std::string>{"path", "value", "reason"});
  }
  CHECK(j["cases"][0]["predicted"] == j["cases"][1]["predicted"]);
  CHECK(j["cases"][3]["measured"] == 0.01);  // what was printed is told all the same
  CHECK(j["cases"][5]["measured"].is_null());
  CHECK(std::string(j["cases"][3]["skipped"]).starts_with("8 attention heads of "));
  CHECK(j["cases"][5]["skipped"] == "kind latency is not predicted");
  REQUIRE(j["files"].size() == 3);
  const Json& steps = j["files"][0];
  CHECK(keys_of(steps) == std::vector<std::string>{"name", "kind", "cases", "scored",
                                                   "mean_abs_error", "median_abs_error", "bias",
                                                   "max_abs_error", "within_10", "band_coverage"});
  CHECK(steps["name"] == "planted.yaml");
  CHECK(steps["kind"] == "train_step");
  CHECK(steps["cases"] == 4);
  CHECK(steps["scored"] == 3);
  CHECK(steps["band_coverage"].is_null());
  CHECK(j["files"][2]["median_abs_error"].is_null());
}

TEST_CASE("a step of the scoreboard is the step time of the same scenario simulated by itself") {
  const TemporaryFolder folder;
  const std::string file = file_in(folder, "planted.yaml", planted);
  const std::string model =
      file_in(folder, "m.yaml",
              "name: m\nkind: transformer\nlayers: 2\nhidden: 512\nheads: 8\nvocabulary: 1024\n"
              "max_positions: 256\nnorm: layer\nactivation: gelu\ngated: false\ntied: true\n"
              "learned_positions: true\nqkv_bias: true\noutput_bias: true\nmlp_bias: true\n");
  const std::string scenario =
      file_in(folder, "s.yaml",
              "model: " + model + "\ndata: {sequence: 256, global_batch: 8, micro_batch: 1}\n" +
                  "platform: {cluster: one-dgx-a100, gpus: 2}\nrun: {steps: 2}\n");
  const Json board = orrery_with({"scoreboard", file, "--json"}).json<Json>();
  const Json alone = orrery_with({"simulate", scenario, "--json"}).json<Json>();
  CHECK(board["cases"][2]["predicted"] == alone["step_time_s"]);
}

TEST_CASE("the scoreboard's table has a row per file and kind, and the reasons") {
  const TemporaryFolder folder;
  const Finished done = orrery_with({"scoreboard", file_in(folder, "planted.yaml", planted)});
  CHECK(done.exit == 0);
  CHECK(contains(done.out, "planted.yaml  train_step      4       3"));
  CHECK(contains(done.out, "4 of 6 cases scored"));
  CHECK(contains(done.out, "do not divide over 3 GPUs"));
  CHECK(contains(done.out, "     1  kind latency is not predicted\n"));
}

TEST_CASE("every error in every file of cases is told at once, at its place") {
  const TemporaryFolder folder;
  const std::string one = file_in(folder, "one.yaml", "cases:\n- {id: a}\n- {kind: gemm}\n");
  const std::string two = file_in(folder, "two.yaml", "source: {}\n");
  const Finished done = orrery_with({"scoreboard", one, two});
  CHECK(done.exit == 3);
  CHECK(done.out.empty());
  CHECK(contains(done.err, "one.yaml:2:"));
  CHECK(contains(done.err, "one.yaml:3:"));
  CHECK(contains(done.err, "missing key 'cases'"));
  CHECK(orrery_with({"scoreboard", folder.file("none.yaml")}).exit == 3);
}

TEST_CASE("a closed pipe ends the scoreboard quietly") {
  const TemporaryFolder folder;
  ProcessOptions options;
  options.stdout_is_closed_pipe = true;
  const Finished done =
      orrery_with({"scoreboard", file_in(folder, "planted.yaml", planted), "--quiet"}, options);
  CHECK(done.exit != 0);
  CHECK(done.err.empty());
}

TEST_CASE("all measured steps of vTrain are scored, a node and more") {
  const Json j =
      orrery_with({"scoreboard", "scenarios/published/vtrain-single.yaml", "--json"}).json<Json>();
  std::size_t scored = 0;
  for (const Json& c : j["cases"]) {
    REQUIRE(c["skipped"].is_null());
    ++scored;
    CHECK(std::abs(c["error"].get<double>()) < 1);
  }
  CHECK(scored == 706);
}
