// `orrery validate`: a simulation and real runs of one scenario, side by side.
#include <doctest/doctest.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include <csignal>
#include <map>

#include "backend/core/error.hpp"
#include "backend/core/text.hpp"
#include "scenarios/cli/children.hpp"
#include "scenarios/cli/comparison.hpp"
#include "tests/cli/process.hpp"
#include "tests/support/near.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

std::vector<std::string> validation(std::vector<std::string> more = {}) {
  std::vector<std::string> arguments{"validate", "scenarios/mlp-ddp.yaml"};
  for (const char* setting :
       {"platform.cluster=this-cpu", "platform.stack=cpu-world", "platform.gpus=2",
        "data.global_batch=32", "data.micro_batch=8", "run.steps=4"})
    arguments.insert(arguments.end(), {"--set", setting});
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

// A result with what a comparison looks at.
std::string result(double step_s, double compute_s, double peak, const std::vector<double>& loss) {
  Json j{{"step_time_s", step_s},
         {"step_time_low_s", nullptr},
         {"step_time_high_s", nullptr},
         {"time",
          {{"compute_s", compute_s},
           {"exposed_communication_s", step_s - compute_s},
           {"bubble_s", 0.0},
           {"overhead_s", 0.0},
           {"idle_s", 0.0}}},
         {"communication", Json::array()},
         {"memory", {{"peak_bytes", peak}}},
         {"loss", loss}};
  return j.dump();
}

cli::Repeat validated_repeat(double step_s) {
  return {result(step_s, step_s / 2, 100, {3.0, 2.0}), step_s, 200, 250, 150};
}

}  // namespace

TEST_CASE("validation has equal losses and peaks in both worlds, and a difference per phase") {
  const Json v = result_of<Json>(validation({"--json", "--repeats", "2"}));
  CHECK(v["schema"] == "orrery.validation/1");
  CHECK(v["simulated"]["world"] == "sim");
  CHECK(v["measured"]["world"] == "cpu");
  std::vector<std::string> keys;
  for (const auto& [key, value] : v["difference"].items()) keys.push_back(key);
  CHECK(keys == std::vector<std::string>{"step", "compute", "exposed", "bubble", "overhead", "idle",
                                         "communication", "memory", "loss"});
  CHECK(v["difference"]["memory"] == 0.0);
  CHECK(v["difference"]["loss"] == 0.0);
  CHECK(v["measured"]["loss"].size() == 4);
  CHECK(v["repeats"]["count"] == 2);
  CHECK(v["repeats"]["step_time_s"].size() == 2);
  const double step = v["measured"]["step_time_s"];
  CHECK(v["repeats"]["spread"]["step"]["low"] == step);  // the faster of two
  CHECK(v["repeats"]["spread"]["step"]["high"] >= step);
  CHECK(v["difference"]["step"].get<double>() ==
        doctest::Approx(v["simulated"]["step_time_s"].get<double>() / step - 1));
  CHECK(v["resident"]["ledger_bytes"] > 0);
  CHECK(v["resident"]["growth_bytes"] > 0);
  CHECK(v["tolerance"].is_null());
}

TEST_CASE(
    "phases and kinds of kernels sum to the computing, and kernels are the same in both worlds") {
  const Json v = result_of<Json>(validation({"--json", "--repeats", "1"}));
  using Calls = std::map<std::string, double>;
  std::map<std::string, Calls> calls;
  for (const std::string world : {"simulated", "measured"}) {
    const Json& result = v[world];
    const double compute = result["time"]["compute_s"];
    for (const char* table : {"phases_s", "classes_s"}) {
      double sum = 0;
      for (const auto& [name, time_s] : result["work"][table].items()) sum += time_s.get<double>();
      CHECK(sum == near(compute, 1e-9));
    }
    std::map<std::string, double> by_phase;
    for (const Json& row : result["work"]["kernels"])
      by_phase[row["phase"].get<std::string>()] += row["time_s"].get<double>();
    for (const auto& [phase, time_s] : by_phase)
      CHECK(time_s == near(result["work"]["phases_s"][phase].get<double>(), 1e-9));
    for (const std::string phase : {"forward", "backward", "optimizer"}) CHECK(by_phase[phase] > 0);
    for (const Json& row : result["work"]["kernels"])
      calls[world][row["operation"].get<std::string>() + " " + row["kernel"].get<std::string>()] =
          row["calls"];
    for (const char* phase : {"forward", "backward", "optimizer"})
      CHECK(v["work"]["phases"][phase][world + "_s"] == result["work"]["phases_s"][phase]);
    CHECK(v["work"]["classes"]["gemm"][world + "_s"] == result["work"]["classes_s"]["gemm"]);
  }
  CHECK(calls["simulated"] == calls["measured"]);
  const Json& backward = v["work"]["phases"]["backward"];
  CHECK(backward["simulated_s"] > v["work"]["phases"]["forward"]["simulated_s"]);
  CHECK(
      backward["difference"].get<double>() ==
      near(backward["simulated_s"].get<double>() / backward["measured_s"].get<double>() - 1, 1e-9));
  CHECK(v["provenance"]["command"].get<std::string>().starts_with(
      "orrery validate scenarios/mlp-ddp.yaml --world cpu --set platform.cluster=this-cpu"));
  CHECK(v["pool"].is_null());  // no GPU
}

TEST_CASE("a training that diverges is validated, without a difference of losses") {
  const Json v = result_of<Json>(
      validation({"--json", "--repeats", "1", "--set", "algorithm.optimizer.lr=1e38"}));
  CHECK(v["measured"]["loss"].back().is_null());
  CHECK(v["difference"]["loss"].is_null());
}

TEST_CASE("a page that cannot be written is refused before anything runs") {
  const TemporaryFolder folder;
  write_file_atomically(folder.file("file"), "");
  for (const std::string& page : {folder.file("file/page.html"), folder.path()}) {
    const Finished done = orrery_with(validation({"--page", page}));
    CHECK(done.exit == 3);
    CHECK(done.out.empty());
    CHECK(contains(done.err, folder.path()));
  }
}

TEST_CASE("over throttled links both worlds move the same bytes and no step is too short") {
  const Json v = result_of<Json>(validation(
      {"--json", "--repeats", "1", "--set", "platform.throttle={latency: 1ms, bandwidth: 1Gbps}"}));
  CHECK(v["difference"]["loss"] == 0.0);
  const Json &sim = v["simulated"]["communication"], &cpu = v["measured"]["communication"];
  REQUIRE(sim.size() == cpu.size());
  double least = 0;
  for (std::size_t i = 0; i < sim.size(); ++i) {
    for (const char* key : {"group", "operation", "lane", "calls", "bytes_per_rank"})
      CHECK(sim[i][key] == cpu[i][key]);
    // All are all-reduces of two ranks, which send as many bytes as the buffer has.
    least +=
        2 * 1e-3 * sim[i]["calls"].get<double>() + sim[i]["bytes_per_rank"].get<double>() / 125e6;
    CHECK(cpu[i]["time_s"] >= near(sim[i]["time_s"].get<double>(), 1e-6));
  }
  double simulated = 0;
  for (const Json& row : sim) simulated += row["time_s"].get<double>();
  CHECK(simulated == near(least, 1e-6));
}

TEST_CASE("a simulation without values has no loss to compare") {
  const Json v =
      result_of<Json>(validation({"--json", "--repeats", "1", "--set", "run.values=virtual"}));
  CHECK(v["difference"]["loss"].is_null());
  CHECK(v["difference"]["memory"] == 0.0);
  CHECK(v["simulated"]["loss"].empty());
  CHECK(v["measured"]["loss"].size() == 4);
}

TEST_CASE("validation ends with 5 outside its tolerance, and prints the figures all the same") {
  const Finished outside =
      orrery_with(validation({"--json", "--repeats", "1", "--tolerance", "0"}));
  CHECK(outside.exit == 5);
  CHECK(contains(outside.err, "error[tolerance]"));
  CHECK(outside.json<Json>()["tolerance"]["within"] == false);
  CHECK(result_of<Json>(validation(
            {"--json", "--repeats", "1", "--tolerance", "1e6"}))["tolerance"]["within"] == true);
}

TEST_CASE("the table of a validation has both columns, the difference and the spread") {
  const Finished done = orrery_with(validation({"--repeats", "2"}));
  REQUIRE_MESSAGE(done.exit == 0, done.err);
  for (const char* part : {"simulated", "measured", "difference", "2 repeats", "compute",
                           "memory at its peak", "equal in every bit in all 4 steps", "resident"})
    CHECK_MESSAGE(contains(done.out, part), done.out);
}

TEST_CASE("what validation cannot do is told by its exit code") {
  CHECK(orrery_with(validation({"--repeats", "0"})).exit == 2);
  CHECK(orrery_with(validation({"--tolerance", "much"})).exit == 2);
  CHECK(orrery_with(validation({"--world", "cuda"})).exit == 6);
  CHECK(orrery_with(validation({"--profile"})).exit == 2);                  // for GPUs
  CHECK(orrery_with({"validate", "scenarios/quickstart.yaml"}).exit == 3);  // no text to learn from
}

TEST_CASE("the measured result is the repeat with the median step time") {
  const cli::Comparison comparison(
      result(1.1, 0.6, 100, {3.0, 2.5}),
      {validated_repeat(9), validated_repeat(1), validated_repeat(0.5)}, 0.2);
  CHECK(*comparison.step_difference() == doctest::Approx(0.1));
  CHECK(comparison.within_tolerance());
  const Json j = Json::parse(comparison.to_json());
  CHECK(j["measured"]["step_time_s"] == 1.0);
  CHECK(j["difference"]["compute"].get<double>() == doctest::Approx(0.2));
  CHECK(j["difference"]["bubble"] == 0.0);
  CHECK(j["difference"]["loss"].get<double>() == doctest::Approx(0.25));
  CHECK(j["repeats"]["spread"]["step"]["low"] == 0.5);
  CHECK(j["repeats"]["spread"]["step"]["high"] == 9.0);
  CHECK(j["resident"]["difference"].get<double>() == doctest::Approx(-0.2));
  CHECK(!cli::Comparison(result(1.3, 1, 100, {}), {validated_repeat(1)}, 0.2).within_tolerance());
}

TEST_CASE("a repeat comes back from another process as it was") {
  const cli::Repeat was = validated_repeat(2);
  const cli::Repeat is = cli::repeat_from_text(cli::in_child([&] { return cli::to_text(was); }));
  CHECK(is.result == was.result);
  CHECK(is.median_step_s == was.median_step_s);
  CHECK(is.ledger_bytes == was.ledger_bytes);
  CHECK(is.resident_growth == was.resident_growth);
  CHECK(is.device_bytes == was.device_bytes);
}

TEST_CASE("a failure in another process keeps its category, and a death is told") {
  try {
    cli::in_child([]() -> std::string { throw Error(Category::deadlock, "all wait"); });
    FAIL("nothing was thrown");
  } catch (const Error& error) {
    CHECK(error.category() == Category::deadlock);
    CHECK(contains(error.what(), "all wait"));
  }
  CHECK_THROWS_WITH_AS(cli::in_child([]() -> std::string {
                         kill(getpid(), SIGKILL);
                         return "";
                       }),
                       doctest::Contains("signal 9"), Error);
}

TEST_CASE("the twin prints a line per case and a summary, in one form") {
  const Finished done = run_process({ORRERY_TWIN, "--form"});
  REQUIRE_MESSAGE(done.exit == 0, done.err);
  std::vector<Json> lines;
  for (const std::string& line : split(done.out, '\n'))
    if (!line.empty()) lines.push_back(Json::parse(line));
  REQUIRE(lines.size() == 2);
  for (const char* key : {"case", "simulated", "measured", "error", "compute_share", "bands",
                          "inside", "spread", "memory", "resident"})
    CHECK_MESSAGE(lines[0].contains(key), key);
  CHECK(lines[0]["memory"] == 0.0);
  CHECK(lines[1]["case"] == "summary");
  for (const char* key : {"cases", "median_error", "worst_error", "least_compute_share",
                          "band_coverage", "memory_exact", "worst_resident", "passed"})
    CHECK_MESSAGE(lines[1].contains(key), key);
  CHECK(run_process({ORRERY_TWIN, "--nonsense", "1"}).exit == 2);
}

TEST_CASE("the benchmark of gossip's rates prints a line per case and a summary, in one form") {
  const Finished done = run_process({ORRERY_RATES, "--form"});
  REQUIRE_MESSAGE(done.exit == 0, done.err);
  std::vector<Json> lines;
  for (const std::string& line : split(done.out, '\n'))
    if (!line.empty()) lines.push_back(Json::parse(line));
  REQUIRE(lines.size() == 2);
  for (const char* key : {"case", "gradients_error", "averagings_error"})
    CHECK_MESSAGE(lines[0].contains(key), key);
  // An exchange of 100 ms a gradient, and a gradient that takes next to nothing.
  CHECK(lines[0]["averagings_per_s"].get<double>() > 3);
  CHECK(lines[0]["averagings_per_s"].get<double>() < 10);
  CHECK(lines[1]["case"] == "summary");
  for (const char* key : {"cases", "median_error", "worst_error", "passed"})
    CHECK_MESSAGE(lines[1].contains(key), key);
  CHECK(run_process({ORRERY_RATES, "--nonsense", "1"}).exit == 2);
}
