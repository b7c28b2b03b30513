// The loss of the mean of all replicas, and shards of the data that differ.
#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/process.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

// Four workers on a small part of a text: `algorithm` in YAML.
std::vector<std::string> training(const std::string& command, const std::string& algorithm,
                                  const std::vector<std::string>& settings = {}) {
  std::vector<std::string> arguments{
      command,
      "scenarios/mlp-ddp.yaml",
      "--json",
      "--quiet",
      "--set",
      "algorithm=" + algorithm,
      "--set",
      "run.steps=12",
      "--set",
      "data={global_batch: 32, micro_batch: 8, text: gpl-3, held_out: 0.03, evaluate_every: 4}"};
  for (const std::string& setting : settings) {
    arguments.push_back(setting.starts_with("--") ? setting : "--set");
    if (!setting.starts_with("--")) arguments.push_back(setting);
  }
  return arguments;
}

const std::string optimizer = "optimizer: {name: momentum, lr: 0.1}}";
const std::string ddp = "{name: ddp, " + optimizer;
const std::string gossip = "{name: ad-psgd, final_average: false, " + optimizer;
const std::string skew = "data.label_skew={concentration: 0.05}";

}  // namespace

TEST_CASE("where replicas are equal their mean has the loss of each") {
  for (const std::string& algorithm : {ddp, "{name: zero, stage: 1, " + optimizer}) {
    CAPTURE(algorithm);
    const Json result = result_of<Json>(training("simulate", algorithm));
    const Json& rows = result["loss_consensus"];
    REQUIRE(rows.size() == 3);
    for (std::size_t i = 0; i < 3; ++i) CHECK(rows[i]["step"] == 4 * (i + 1));
    CHECK(rows[0]["loss"] > rows[2]["loss"]);
    CHECK(rows[2]["loss"] == result["loss_held_out"]);
    const Json without =
        result_of<Json>(training("simulate", algorithm, {"data.evaluate_every=null"}));
    CHECK(without["loss"] == result["loss"]);
    CHECK(!without.contains("loss_consensus"));
  }
}

TEST_CASE("bf16 parameters are averaged as they are") {
  const Json result = result_of<Json>(
      training("simulate", ddp, {"precision={parameters: bf16, activations: bf16}"}));
  CHECK(result["loss_consensus"][2]["loss"] == result["loss_held_out"]);
}

TEST_CASE("workers that drift apart are averaged alike in both worlds, and then only judged") {
  const TemporaryFolder folder;
  const std::string decisions = folder.file("decisions");
  const Json sim = result_of<Json>(training("simulate", gossip, {skew, "run.record=" + decisions})),
             cpu = result_of<Json>(training("run", gossip, {skew, "run.replay=" + decisions}));
  REQUIRE(sim["loss_consensus"].size() >= 2);
  CHECK(sim["loss_consensus"] == cpu["loss_consensus"]);
  CHECK(sim["loss"] == cpu["loss"]);
  // Without a mean at the end, the first worker alone is judged there.
  CHECK(sim["loss_held_out"] > sim["loss_consensus"].back()["loss"]);
}

TEST_CASE("skewed shards are the same in both worlds, by the seed, and other than all data") {
  const Json sim = result_of<Json>(training("simulate", ddp, {skew}));
  CHECK(result_of<Json>(training("run", ddp, {skew}))["loss"] == sim["loss"]);
  CHECK(result_of<Json>(training("simulate", ddp))["loss"] != sim["loss"]);
  CHECK(result_of<Json>(training(
            "simulate", ddp, {skew, "data.label_skew.concentration=0.06"}))["loss"] != sim["loss"]);
}

TEST_CASE("a resumed run draws from the shards that it had") {
  const TemporaryFolder folder;
  const std::string state = folder.file("state");
  const Json all = result_of<Json>(training("run", ddp, {skew}));
  result_of<Json>(training("run", ddp, {skew, "run.steps=5", "--checkpoint=" + state}));
  const Json rest = result_of<Json>(training("run", ddp, {skew, "--resume=" + state}));
  REQUIRE(rest["loss"].size() == 7);
  for (std::size_t i = 0; i < 7; ++i) CHECK(rest["loss"][i] == all["loss"][i + 5]);
  CHECK(rest["loss_consensus"].back() == all["loss_consensus"].back());
}

TEST_CASE("evaluations of a mean that there is not are refused") {
  for (const auto& [setting, reason] :
       {std::pair{"data.held_out=0", "nothing is held out to evaluate on"},
        {"run.values=virtual", "virtual values have no loss"},
        {"algorithm={name: fsdp}", "replicas that are divided over ranks"},
        {"algorithm={name: acco}", "its replicas have the same parameters after each step"},
        {"algorithm={name: overlap-sgp}", "belongs to no model"},
        {"algorithm={name: ad-psgd, graph: complete, members: [{worker: 3, leaves_after: 5}]}",
         "the mean of workers that come and go"},
        {"parallel.tensor=2", "replicas that are divided over ranks"}}) {
    const Finished run = orrery_with(training("simulate", ddp, {setting}));
    CAPTURE(std::string(setting));
    CHECK(run.exit == 3);
    CHECK(contains(run.out + run.err, reason));
  }
}

TEST_CASE("a race of several seeds is between the medians of what all workers have together") {
  const TemporaryFolder folder;
  std::vector<std::string> command{"race", "ddp", "ad-psgd"};
  const std::vector<std::string> own = training("", ddp);
  command.insert(command.end(), {"--scenario", own[1], "--target-loss", "5.5", "--quiet"});
  command.insert(command.end(), own.begin() + 4, own.end());
  command.insert(command.end(), {"--seed", "1,2,3", "--out", folder.path()});
  const Finished table = orrery_with(command);
  REQUIRE_MESSAGE(table.exit == 0, table.err);
  CHECK(contains(table.out, "of all seeds"));
  const Json curves = Json::parse(text_of_file(folder.file("race.json")))["algorithms"];
  REQUIRE(curves.size() == 6);
  for (std::size_t i = 0; i < 6; ++i) {
    CHECK(curves[i]["given"] == (i < 3 ? "ddp" : "ad-psgd"));
    CHECK(curves[i]["seed"] == i % 3 + 1);
    CHECK(curves[i]["loss_of"] == "mean of workers");
    CHECK(curves[i]["steps"][0] == 4);
    std::size_t first = 0;
    while (curves[i]["loss"].at(first) > 5.5) ++first;
    for (const char* list : {"steps", "seconds", "samples", "bytes_per_rank"})
      CHECK(curves[i][std::string(list) + "_to_target"] == curves[i][list][first]);
  }
  CHECK(orrery_with({"simulate", quickstart, "--seed", "1,2"}).exit == 2);
}
