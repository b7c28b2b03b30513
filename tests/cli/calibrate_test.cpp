// `orrery calibrate`, and forecasts on what it wrote. Times are this machine's and not looked at.
#include <csignal>
#include <nlohmann/json.hpp>

#include "tests/cli/process.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

const std::string mlp = "scenarios/mlp-ddp.yaml";

Json simulated(const std::string& file, std::vector<std::string> more = {}) {
  std::vector<std::string> command{
      "simulate", mlp,           "--json", "--set",          "platform.cluster=" + file,
      "--set",    "run.steps=3", "--set",  "platform.gpus=2"};
  command.insert(command.end(), more.begin(), more.end());
  return orrery_with(command).json<Json>();
}

}  // namespace

TEST_CASE("a calibration is one file that a scenario runs on, with a band around the step time") {
  const TemporaryFolder folder;
  const std::string file = folder.file("mine.yaml");
  const Json said = orrery_with({"calibrate", "--quick", "--out", file, "--json"}).json<Json>();
  CHECK(said["schema"] == "orrery.calibration/1");
  CHECK(said["platform"] == "mine");
  REQUIRE(!said["classes"].empty());
  for (const char* key : {"name", "points", "held_back", "mean_abs_error", "max_abs_error", "bias"})
    CHECK(said["classes"][0].contains(key));
  CHECK(folder.names() == std::vector<std::string>{"mine.yaml"});

  const Json result = simulated(file);
  CHECK(result["cluster"] == "mine");
  CHECK(result["step_time_low_s"] <= result["step_time_s"]);
  CHECK(result["step_time_high_s"] >= result["step_time_s"]);
  CHECK(simulated(file)["fingerprint"] == result["fingerprint"]);
  CHECK(simulated("two-dgx-a100")["step_time_low_s"].is_null());

  const std::string out = folder.file("out");
  simulated(file, {"--out", out});
  const Json again =
      orrery_with({"simulate", out + "/config.resolved.yaml", "--json"}).json<Json>();
  CHECK(again["step_time_s"] == result["step_time_s"]);
}

TEST_CASE("a calibration tells its errors as a table, and how to use its file") {
  const TemporaryFolder folder;
  const Finished run =
      orrery_with({"calibrate", "--quick", "--ranks", "1", "--out", folder.file("a.yaml")});
  CHECK(run.exit == 0);
  CHECK(contains(run.out, "gemm tn accumulate fp32, 1 busy"));
  CHECK(contains(run.out, "--set platform.cluster="));
}

TEST_CASE("an interrupted calibration leaves no file") {
  const TemporaryFolder folder;
  ProcessOptions options;
  options.while_it_runs = [](pid_t pid) { kill(pid, SIGINT); };
  const Finished run = orrery_with({"calibrate", "--out", folder.file("a.yaml")}, options);
  CHECK((run.exit == 130 || run.signal == SIGINT));
  CHECK(folder.names().empty());
}

TEST_CASE("a calibration that cannot be is refused before anything is measured") {
  CHECK(orrery_with({"calibrate"}).exit == 2);
  CHECK(orrery_with({"calibrate", "--out", "a.json"}).exit == 2);
  CHECK(orrery_with({"calibrate", "--out", "a.yaml", "--ranks", "0"}).exit == 2);
  const Json missing = orrery_with({"doctor", "--json"}).json<Json>()["cuda_missing"];
  if (!missing.is_null()) {
    const Finished run = orrery_with({"calibrate", "--out", "a.yaml", "--world", "cuda"});
    CHECK(run.exit == 6);
    CHECK(contains(run.err, missing.get<std::string>()));
  }
  CHECK(orrery_with({"calibrate", "--out", "a.yaml", "--world", "gpu"}).exit == 2);
}
