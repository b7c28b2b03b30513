// A value model under a timed one, and races on it.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "tests/cli/process.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

std::vector<std::string> race_scenario(const std::vector<std::string>& settings) {
  std::vector<std::string> command{"simulate", "scenarios/race.yaml", "--json", "--quiet",
                                   "--set",    "run.steps=12",        "--set",  "platform.gpus=4",
                                   "--set",    "data.global_batch=32"};
  for (const std::string& setting : settings) {
    command.push_back("--set");
    command.push_back(setting);
  }
  return command;
}

Json simulated(const std::vector<std::string>& settings) {
  const Finished run = orrery_with(race_scenario(settings));
  REQUIRE_MESSAGE(run.exit == 0, run.out << run.err);
  return run.json<Json>();
}

const std::string diloco =
    "algorithm={name: diloco, inner_steps: 4, inner: {optimizer: {lr: 3e-3}}}";

}  // namespace

TEST_CASE("with a value model the clock, the bytes and the memory are those of the timed model") {
  for (const std::string& algorithm : {diloco, std::string("algorithm.name=ddp")}) {
    CAPTURE(algorithm);
    const Json twin = simulated({algorithm}), timed = simulated({algorithm, "value_model=null"});
    for (const char* figure : {"step_time_s", "tokens_per_s", "mfu", "hfu"})
      CHECK(twin[figure].get<double>() ==
            doctest::Approx(timed[figure].get<double>()).epsilon(0.01));
    CHECK(twin["memory"] == timed["memory"]);
    REQUIRE(twin["communication"].size() == timed["communication"].size());
    double sent = 0, sent_timed = 0;
    for (const Json& row : twin["communication"]) sent += row["bytes_per_rank"].get<double>();
    for (const Json& row : timed["communication"])
      sent_timed += row["bytes_per_rank"].get<double>();
    CHECK(sent == doctest::Approx(sent_timed).epsilon(1e-4));
    CHECK(timed["loss"].empty());
    CHECK(twin["loss"].size() == 12);
    CHECK(twin["loss"].back() < twin["loss"].front());
  }
}

TEST_CASE("what a value model learns does not depend on the clock, unless the algorithm asks it") {
  const std::vector<std::string> slow{diloco, "platform.throttle.bandwidth=10Mbps"};
  CHECK(simulated({diloco})["loss"] == simulated(slow)["loss"]);
  const std::string acco = "algorithm={name: acco, optimizer: {lr: 3e-3}}";
  CHECK(simulated({acco})["loss"] !=
        simulated({acco, "platform.throttle.bandwidth=10Mbps"})["loss"]);
}

TEST_CASE("a race tells time and bytes to a loss, and draws it") {
  const TemporaryFolder folder;
  const std::vector<std::string> command{"race",
                                         "ddp",
                                         "diloco:inner_steps=10",
                                         "--target-loss",
                                         "5.2",
                                         "--set",
                                         "run.steps=40",
                                         "--set",
                                         "platform.gpus=4",
                                         "--set",
                                         "data.global_batch=32",
                                         "--quiet"};
  auto as_json = command;
  as_json.insert(as_json.end(), {"--json", "--out", folder.path()});
  const Json curves = orrery_with(as_json).json<Json>();
  REQUIRE(curves.size() == 2);
  for (const Json& curve : curves) {
    const auto steps = curve["steps_to_target"].get<std::size_t>();
    CHECK(curve["loss"].size() == 40);
    CHECK(curve["seconds_to_target"] == curve["seconds"][steps - 1]);
  }
  CHECK(curves[1]["algorithm"] == "diloco");
  CHECK(curves[1]["seconds_to_target"] < curves[0]["seconds_to_target"]);
  CHECK(curves[1]["bytes_to_target"] < curves[0]["bytes_to_target"]);
  CHECK(Json::parse(text_of_file(folder.file("race.json"))) == curves);
  const std::string svg = text_of_file(folder.file("race.svg"));
  CHECK(svg.starts_with("<svg"));
  CHECK(contains(svg, ">diloco</text>"));
  const Finished table = orrery_with(command);
  CHECK(contains(table.out, "diloco"));
}

TEST_CASE("a race without losses, without a target or of unknown algorithms is refused") {
  CHECK(orrery_with({"race", "ddp"}).exit == 2);
  CHECK(orrery_with({"race", "ddp", "--target-loss", "3", "--scenario", quickstart}).exit == 3);
  CHECK(orrery_with({"race", "dpp", "--target-loss", "3"}).exit == 3);
}

TEST_CASE("a value model is refused where it would not tell what the timed model does") {
  for (const auto& [setting, reason] : {std::pair{"parallel.pipeline=2", "divided over GPUs"},
                                        {"run.fidelity=flow", "contended links"},
                                        {"run.values=real", "value_model"},
                                        {"value_model.model=llama-2-7b", "sequence"},
                                        {"value_model.text=gpl-2", "no text"}}) {
    const Finished run = orrery_with(race_scenario({setting}));
    CAPTURE(setting);
    CHECK(run.exit == 3);
    CHECK(contains(run.out + run.err, reason));
  }
  CHECK(orrery_with({"run", "scenarios/race.yaml"}).exit == 3);
}
