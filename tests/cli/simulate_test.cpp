// `orrery simulate` as a process: its table, its JSON and its files.
#include <doctest/doctest.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "backend/core/sha256.hpp"
#include "tests/cli/process.hpp"
#include "tests/support/near.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

Json without_host(Json result) {
  result.erase("host");
  return result;
}

std::string decompressed(const std::string& path) {
  const gzFile file = gzopen(path.c_str(), "rb");
  REQUIRE(file != nullptr);
  std::string text;
  std::array<char, 65536> buffer{};
  for (int n = 0; (n = gzread(file, buffer.data(), buffer.size())) > 0;)
    text.append(buffer.data(), static_cast<std::size_t>(n));
  CHECK(gzclose(file) == Z_OK);
  return text;
}

}  // namespace

TEST_CASE("the quickstart prints a table that names model, cluster, GPU and seed") {
  const Finished run = orrery_with({"simulate", quickstart});
  CHECK(run.exit == 0);
  for (const char* part :
       {"llama-3.2-1b, 1,235,814,400 parameters", "two-dgx-a100: 16 x a100-sxm-80gb", "seed 1",
        "step time", "MFU", "exposed communication", "memory at its peak", "assumed"})
    CHECK_MESSAGE(contains(run.out, part), "no '" << part << "' in\n" << run.out);
  CHECK(!contains(run.out, "\033"));
}

TEST_CASE("the quickstart's figures are plausible and its time is accounted for") {
  const Json r = orrery_with({"simulate", quickstart, "--json"}).json<Json>();
  CHECK(r["schema"] == "orrery.result/1");
  CHECK(r["model"] == "llama-3.2-1b");
  CHECK(r["parameters"] == 1'235'814'400);
  CHECK(r["ranks"] == 16);
  const double mfu = r["mfu"];
  CHECK(mfu > 0.3);
  CHECK(mfu < 0.75);
  CHECK(r["hfu"].get<double>() >= mfu);
  double sum = 0;
  for (const auto& [part, seconds] : r["time"].items()) {
    CHECK(seconds.get<double>() >= 0);
    sum += seconds.get<double>();
  }
  const double step = r["step_time_s"];
  CHECK(std::abs(sum - step) <= 1e-9 * step);
  std::int64_t held = 0;
  for (const auto& [label, bytes] : r["memory"]["by_label"].items())
    held += bytes.get<std::int64_t>();
  CHECK(held == r["memory"]["peak_bytes"].get<std::int64_t>());
}

TEST_CASE("a pipeline whose ends share the embedding exchanges its gradient, by the table too") {
  const std::vector<std::string> set{"--set", "parallel.pipeline=2"};
  const Finished run = orrery_with({"simulate", quickstart, set[0], set[1]});
  CHECK(run.exit == 0);
  CHECK(contains(run.out, "exchange shared"));
  const Json r = orrery_with({"simulate", quickstart, set[0], set[1], "--json"}).json<Json>();
  int rows = 0;
  for (const Json& row : r["communication"])
    if (row["operation"] == "exchange") {
      CHECK(row["calls"] == 1);
      CHECK(row["bytes_per_rank"] == 4 * 128256LL * 2048);  // gradients in fp32
      ++rows;
    }
  CHECK(rows == 1);
  CHECK(r["parameters"] == 1'235'814'400);
}

TEST_CASE(
    "the ready plans over tensor ranks fit, send what the formula says and recompute a forward") {
  struct Ready {
    const char* file;
    double layers, hidden, sequence, micro_batches, stages;
  };
  // Tensor 8: (t-1)/t of each gathered or scattered buffer of the first stage, in bf16.
  for (const Ready& ready : {Ready{"gpt3-175b-tp8-pp8", 96, 12288, 2048, 8, 8},
                             Ready{"llama3-70b-tp8", 80, 8192, 8192, 4, 4}}) {
    const Finished run =
        orrery_with({"simulate", std::string("scenarios/") + ready.file + ".yaml", "--json",
                     "--set", "data.global_batch=8"});  // over 1 and 2 replicas
    REQUIRE_MESSAGE(run.exit == 0, run.err);
    const Json r = run.json<Json>();
    CHECK(r["memory"]["peak_bytes"] < r["memory"]["capacity_bytes"]);
    const double mfu = r["mfu"], hfu = r["hfu"];
    CHECK(hfu / mfu == doctest::Approx(4.0 / 3).epsilon(0.01));
    CHECK(mfu > 0.05);
    const double layers = ready.layers / ready.stages;
    const double buffer = ready.sequence * ready.hidden * 2 * 7 / 8;
    double gathers = 0, scatters = 0;
    for (const Json& row : r["communication"]) {
      if (row["group"] != "tensor" || row["lane"] != "activations") continue;
      if (row["operation"] == "all_gather") gathers = row["bytes_per_rank"];
      if (row["operation"] == "reduce_scatter") scatters = row["bytes_per_rank"];
    }
    // Forward twice, as it is recomputed; the slowest rank may hold the embedding or the head.
    const double g = (2 + 2 + 4) * layers * ready.micro_batches * buffer;
    const double s = (2 + 2 + 2) * layers * ready.micro_batches * buffer;
    CHECK(gathers >= g);
    CHECK(gathers <= g + 3 * ready.micro_batches * buffer);
    CHECK(scatters >= s);
    CHECK(scatters <= s + 2 * ready.micro_batches * buffer);
  }
}

TEST_CASE(
    "a model with attention and MLP side by side is simulated, and trains on the CPU device") {
  CHECK(orrery_with(
            {"simulate", quickstart, "--set", "model=pythia-1b", "--set", "data.sequence=2048"})
            .exit == 0);
  const Finished cpu =
      orrery_with({"simulate", "scenarios/mlp-ddp.yaml", "--set", "platform.cluster=this-cpu",
                   "--set", "platform.stack=cpu-world", "--set", "run.steps=2"});
  CHECK(cpu.exit == 0);
  CHECK(contains(cpu.out, "4 x cpu-core"));
}

TEST_CASE("Llama-2-7B has 6,738,415,616 parameters and does not fit: exit 4 and the top holders") {
  const std::vector<std::string> set{"--set", "model=llama-2-7b"};
  CHECK(contains(orrery_with({"check", quickstart, set[0], set[1]}).out, "6,738,415,616"));
  const Finished run = orrery_with({"simulate", quickstart, set[0], set[1]});
  CHECK(run.exit == 4);
  CHECK(run.out.empty());
  for (const char* part : {"out of memory", "held by optimizer", "held by gradients", "rank"})
    CHECK_MESSAGE(contains(run.err, part), run.err);
}

TEST_CASE(
    "tokens that crowd on one GPU's experts cost its time and memory, no bytes and no FLOPs") {
  const auto crowded = [](const char* imbalance) {
    return orrery_with({"simulate", "scenarios/mixtral-ep8.yaml", "--json", "--quiet", "--set",
                        std::string("experts.imbalance=") + imbalance, "--set", "run.steps=1"})
        .json<Json>();
  };
  const Json even = crowded("1"), twice = crowded("2"), thrice = crowded("3");
  const auto number = [](const Json& value) { return value.get<double>(); };
  const auto compute = [&](const Json& result) { return number(result["time"]["compute_s"]); };
  CHECK(compute(twice) > 1.2 * compute(even));
  CHECK(compute(thrice) - compute(twice) == near(compute(twice) - compute(even), 1e-6));
  CHECK(twice["memory"]["peak_bytes"] > even["memory"]["peak_bytes"]);
  REQUIRE(twice["communication"].size() == even["communication"].size());
  for (std::size_t i = 0; i < even["communication"].size(); ++i)
    CHECK(twice["communication"][i]["bytes_per_rank"] ==
          even["communication"][i]["bytes_per_rank"]);
  const auto executed = [&](const Json& r) { return number(r["hfu"]) * number(r["step_time_s"]); };
  CHECK(executed(twice) == doctest::Approx(executed(even)).epsilon(1e-9));
}

TEST_CASE("the same scenario twice gives the same bytes outside `host`") {
  const auto once = [] {
    return without_host(orrery_with({"simulate", quickstart, "--json"}).json<Json>());
  };
  CHECK(once().dump() == once().dump());
}

TEST_CASE("the fingerprint is the SHA-256 of the result without itself and `host`") {
  Json r = without_host(orrery_with({"simulate", quickstart, "--json"}).json<Json>());
  const std::string fingerprint = r["fingerprint"];
  r.erase("fingerprint");
  CHECK(fingerprint == sha256_hex(r.dump()));
}

TEST_CASE("--set and --seed reach the scenario's fields") {
  const Json r = orrery_with({"simulate", quickstart, "--json", "--set", "platform.gpus=8", "--set",
                              "data.micro_batch=2", "--seed", "7"})
                     .json<Json>();
  CHECK(r["ranks"] == 8);
  CHECK(r["seed"] == 7);
  const Json other = orrery_with({"simulate", quickstart, "--json"}).json<Json>();
  CHECK(r["memory"]["by_label"]["activations"] < other["memory"]["by_label"]["activations"]);
}

TEST_CASE("--out writes whole files, and the resolved configuration gives the same result") {
  const TemporaryFolder folder;
  const std::string out = folder.file("a/b");
  const Json r =
      orrery_with({"simulate", quickstart, "--json", "--trace", "--out", out}).json<Json>();
  CHECK(Json::parse(text_of_file(out + "/result.json")) == r);
  const Json provenance = Json::parse(text_of_file(out + "/provenance.json"));
  CHECK(provenance["fingerprint"] == r["fingerprint"]);
  CHECK(
      text_of_file(out + "/metrics.csv").starts_with("step,end_s,loss,samples,bytes_per_rank\n1,"));
  const std::string memory = text_of_file(out + "/memory.csv");
  CHECK(memory.starts_with("rank,peak_bytes,parameters,"));
  CHECK(std::count(memory.begin(), memory.end(), '\n') == 17);  // a head and 16 ranks
  const Json again =
      orrery_with({"simulate", out + "/config.resolved.yaml", "--json"}).json<Json>();
  CHECK(again["step_time_s"] == r["step_time_s"]);
  CHECK(again["memory"] == r["memory"]);
}

TEST_CASE("the trace is JSON with a process per rank and slices that last") {
  const TemporaryFolder folder;
  const Finished run = orrery_with({"trace", quickstart, "--out", folder.path(), "--set",
                                    "platform.gpus=2", "--set", "data.global_batch=8"});
  CHECK(run.exit == 0);
  CHECK(run.out == folder.file("trace.json.gz") + "\n");
  CHECK(folder.names() == std::vector<std::string>{"trace.json.gz"});
  const Json trace = Json::parse(decompressed(folder.file("trace.json.gz")));
  const Json& events = trace.is_array() ? trace : trace.at("traceEvents");
  int slices = 0;
  for (const Json& event : events)
    if (event["ph"] == "X") {
      ++slices;
      CHECK(event["dur"].get<double>() >= 0);
      CHECK(event["pid"].get<int>() < 2);
    }
  CHECK(slices > 100);
}

TEST_CASE("the trace of a real run has every rank's streams, and kernels within their sequences") {
  const TemporaryFolder folder;
  const Finished run =
      orrery_with({"run", "scenarios/mlp-ddp.yaml", "--trace", "--out", folder.path(), "--json",
                   "--set", "run.steps=2", "--set", "platform.gpus=2"});
  REQUIRE_MESSAGE(run.exit == 0, run.err);
  CHECK(run.json<Json>()["work"]["phases_s"]["forward"] > 0);
  std::map<std::string, int> slices;
  std::map<std::pair<int, int>, double> sequence_ends;
  const Json trace = Json::parse(decompressed(folder.file("trace.json.gz")));
  for (const Json& event : trace.at("traceEvents")) {
    if (event["ph"] != "X") continue;
    ++slices[event["cat"]];
    const double end = event["ts"].get<double>() + event["dur"].get<double>();
    double& sequence = sequence_ends[{event["pid"].get<int>(), event["tid"].get<int>()}];
    if (event["cat"] == "sequence") sequence = end;
    if (event["cat"] == "kernel" && event["ts"].get<double>() < sequence - 1e-6)
      CHECK(end <= sequence + 1e-6);
  }
  for (const char* category : {"kernel", "sequence", "communication"}) CHECK(slices[category] > 0);
  CHECK(orrery_with({"run", "scenarios/mlp-ddp.yaml", "--trace"}).exit == 2);  // where to?
}

// Of four workers that meet every five steps one dies behind its seventh, which the others learn
// at the second meeting; one joins there. The same losses on this machine's CPU.
TEST_CASE("workers that come and go are in a result for as long as they train") {
  std::vector<std::string> arguments{"simulate", "scenarios/mlp-diloco.yaml", "--json", "--quiet"};
  for (const char* setting :
       {"run.steps=20", "algorithm.inner_steps=5", "algorithm.codec.name=fp32",
        "algorithm.deadline=50ms",
        "algorithm.members=[{worker: 1, dies_after: 7}, {worker: 2, joins_after: 9}]"})
    arguments.insert(arguments.end(), {"--set", setting});
  const Finished simulated = orrery_with(arguments);
  REQUIRE_MESSAGE(simulated.exit == 0, simulated.err);
  const Json forecast = simulated.json<Json>();
  CHECK(forecast["loss"].size() == 20);
  CHECK(forecast["loss"].back() < forecast["loss"].front());
  double share = 0;
  for (const Json& worker : forecast["workers"]) share += worker["sample_share"].get<double>();
  CHECK(share == near(1, 1e-9));
  const double all = 20 + 20 + 7 + 10;  // steps
  CHECK(forecast["workers"][0]["sample_share"].get<double>() == near(20 / all, 1e-9));
  CHECK(forecast["workers"][1]["sample_share"].get<double>() == near(7 / all, 1e-9));
  CHECK(forecast["workers"][2]["sample_share"].get<double>() == near(10 / all, 1e-9));
  arguments.front() = "run";
  arguments.insert(arguments.end(), {"--world", "cpu"});
  CHECK(orrery_with(arguments).json<Json>()["loss"] == forecast["loss"]);
}

TEST_CASE("warnings are advice on stderr and in the JSON, and --quiet keeps them from stderr") {
  const std::vector<std::string> one{"simulate", quickstart, "--set", "run.steps=1"};
  const Finished run = orrery_with(one);
  CHECK(contains(run.err, "warning: one step only"));
  CHECK(!contains(run.out, "warning"));
  auto quiet = one;
  quiet.insert(quiet.end(), {"--quiet", "--json"});
  const Finished silent = orrery_with(quiet);
  CHECK(silent.err.empty());
  CHECK(contains(silent.json<Json>()["warnings"].dump(), "one step only"));
}
