// Imperfect clusters, replicas and what limits a step, as users ask for them.
#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>
#include <sstream>

#include "backend/core/text.hpp"
#include "tests/cli/process.hpp"
#include "tests/support/near.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

Json quickstart_with(const std::vector<std::string>& assignments) {
  std::vector<std::string> arguments{"simulate", "scenarios/quickstart.yaml", "--json"};
  for (const std::string& a : assignments) {
    arguments.push_back("--set");
    arguments.push_back(a);
  }
  const auto done = orrery_with(arguments);
  REQUIRE_MESSAGE(done.exit == 0, done.err);
  return Json::parse(done.out);
}

}  // namespace

TEST_CASE("a worker four times slower makes those of DDP idle three quarters of the step") {
  const Json j = quickstart_with({"cluster_conditions.gpu_speed.slow=[{gpus: [3], speed: 0.25}]"});
  const Json perfect = quickstart_with({});
  CHECK(j["busy"]["least"].get<double>() == near(0.25, 0.03));
  CHECK(j["busy"]["median"].get<double>() == near(0.25, 0.03));
  CHECK(j["busy"]["most"].get<double>() > 0.98);
  CHECK(j["step_time_s"].get<double>() / perfect["step_time_s"].get<double>() ==
        doctest::Approx(4).epsilon(0.02));
  CHECK(!perfect.contains("busy"));
}

TEST_CASE("replicas have the conditions of the seeds that follow") {
  const std::string jitter = "cluster_conditions.jitter=0.1";
  const Json three = quickstart_with({jitter, "run.replicas=3"})["replicas"];
  std::vector<double> steps;
  for (const char* seed : {"1", "2", "3"})
    steps.push_back(
        quickstart_with({jitter, std::string("cluster_conditions.seed=") + seed})["step_time_s"]
            .get<double>());
  std::sort(steps.begin(), steps.end());
  CHECK(steps[0] < steps[2]);
  CHECK(three["count"] == 3);
  CHECK(three["step_time_s"]["min"] == steps[0]);
  CHECK(three["step_time_s"]["p50"] == steps[1]);
  CHECK(three["step_time_s"]["max"] == steps[2]);
}

TEST_CASE("a bottleneck is explained: a step bound by arithmetic gains most from it") {
  const Json j = quickstart_with({"run.explain_bottleneck=true"});
  const Json& rows = j["bottleneck"];
  REQUIRE(rows.size() >= 6);
  CHECK(rows[0]["resource"] == "arithmetic");
  double last = 0;
  for (const Json& row : rows) {
    CHECK(row["step_time_s"].get<double>() >= last);
    CHECK(row["step_time_s"].get<double>() <= j["step_time_s"].get<double>() * (1 + 1e-9));
    const double gain = j["step_time_s"].get<double>() / row["step_time_s"].get<double>() - 1;
    CHECK(row["mfu_points"].get<double>() == doctest::Approx(100 * j["mfu"].get<double>() * gain));
    last = row["step_time_s"].get<double>();
  }
  REQUIRE(j["links"].size() == 2);
  CHECK(j["links"][0]["tier"] == "scale-up");
  CHECK(j["links"][1]["tier"] == "nic");
  CHECK(j["links"][1]["busiest_share"].get<double>() > 0.001);
  CHECK(j["links"][1]["busiest_share"].get<double>() < 1);
}

TEST_CASE("how busy links are is counted over all ranks, whoever issues for them") {
  const Json any = quickstart_with({"run.explain_bottleneck=true"});
  const Json each = quickstart_with({"run.explain_bottleneck=true", "run.folding=off"});
  CHECK(any["links"] == each["links"]);
  CHECK(any["simulated_ranks"] == each["simulated_ranks"]);
}

TEST_CASE("where flows are simulated, each link's utilisation is in the files of the result") {
  const TemporaryFolder folder;
  const Finished done =
      orrery_with({"simulate", "scenarios/quickstart.yaml", "--quiet", "--json", "--out",
                   folder.path(), "--set", "run.fidelity=flow", "--set", "run.steps=1"});
  REQUIRE_MESSAGE(done.exit == 0, done.err);
  const Json links = done.json<Json>()["links"];
  REQUIRE(links.size() == 2);
  std::istringstream table(text_of_file(folder.file("links.csv")));
  std::string line;
  std::getline(table, line);
  CHECK(line == "link,tier,bandwidth_bytes_per_s,bytes,utilisation");
  std::map<std::string, std::pair<int, double>> tiers;
  std::map<std::string, double> busiest;
  while (std::getline(table, line)) {
    const std::vector<std::string> cells = split(line, ',');
    REQUIRE(cells.size() == 5);
    const double share = std::stod(cells[4]);
    ++tiers[cells[1]].first;
    tiers[cells[1]].second += share;
    busiest[cells[1]] = std::max(busiest[cells[1]], share);
  }
  for (const Json& row : links) {
    const std::string tier = row["tier"];
    CHECK(tiers[tier].first == row["links"].get<int>());
    CHECK(tiers[tier].second / tiers[tier].first == near(row["mean_share"].get<double>(), 1e-5));
    CHECK(busiest[tier] == near(row["busiest_share"].get<double>(), 1e-5));
    CHECK(busiest[tier] > 0);
  }
}

TEST_CASE("gradients that are summed slowly do not hold up the pipeline's backward passes") {
  // On Frontier two GPUs share a port, so summing takes longer than the last backward pass.
  const auto simulate = [](const char* fidelity) {
    const auto done = orrery_with(
        {"simulate", "scenarios/gpt3-175b-tp8-pp8.yaml", "--json", "--set",
         "platform.cluster=frontier", "--set", "platform.gpus=128", "--set", "data.global_batch=16",
         "--set", std::string("run.fidelity={replicate: ") + fidelity + ", others: analytic}"});
    REQUIRE_MESSAGE(done.exit == 0, done.err);
    return Json::parse(done.out)["time"];
  };
  const Json alone = simulate("analytic"), shared = simulate("auto");
  CHECK(shared["exposed_communication_s"].get<double>() >
        alone["exposed_communication_s"].get<double>() * 1.2);
  CHECK(shared["bubble_s"].get<double>() == near(alone["bubble_s"].get<double>(), 0.02));
  // Eight stages and eight micro-batches: 7/8 of what a stage computes, sums and gathers.
  CHECK(shared["bubble_s"].get<double>() < shared["compute_s"].get<double>() * 1.3);
}

TEST_CASE("fidelity by group is checked and used") {
  CHECK(quickstart_with({"run.fidelity={replicate: flow, others: analytic}"})["flows"].get<int>() >
        0);
  CHECK(quickstart_with({"run.fidelity={tensor: flow}"})["flows"] == 0);
  const auto refused = orrery_with(
      {"simulate", "scenarios/quickstart.yaml", "--set", "run.fidelity={replicas: flow}"});
  CHECK(refused.exit == 3);
  CHECK(refused.err.find("no group can be called 'replicas'") != std::string::npos);
  const auto traced = orrery_with({"trace", quickstart, "--set", "run.explain_bottleneck=true"});
  CHECK(traced.exit == 2);
  CHECK(contains(traced.err, "run.explain_bottleneck is for `orrery simulate` and `orrery sweep`"));
  const auto real = orrery_with({"run", "scenarios/mlp-ddp.yaml", "--world", "cpu", "--set",
                                 "cluster_conditions.jitter=0.1"});
  CHECK(real.exit == 2);
  CHECK(contains(real.err, "cluster_conditions are simulated"));
  const auto perfect =
      orrery_with({"simulate", "scenarios/quickstart.yaml", "--set", "run.replicas=2"});
  CHECK(perfect.exit == 3);
  CHECK(perfect.err.find("all replicas of a perfect cluster are equal") != std::string::npos);
}
