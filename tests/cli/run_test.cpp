// `orrery run --world cpu`: training for real, and decisions between worlds.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/cli/process.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

const std::string scenario = "scenarios/mlp-ddp.yaml";

// Conditional entropy of a byte given the one before it, in nats: the least mean loss of a model
// that looks at one byte.
double bigram_entropy(const std::string& text) {
  std::vector<std::array<double, 256>> pairs(256);
  std::array<double, 256> firsts{};
  for (std::size_t i = 0; i + 1 < text.size(); ++i) {
    const auto a = static_cast<unsigned char>(text[i]), b = static_cast<unsigned char>(text[i + 1]);
    pairs[a][b] += 1;
    firsts[a] += 1;
  }
  const double all = static_cast<double>(text.size() - 1);
  double entropy = 0;
  for (std::size_t a = 0; a < 256; ++a)
    for (const double n : pairs[a])
      if (n > 0) entropy -= n / all * std::log(n / firsts[a]);
  return entropy;
}

Json run_steps(int steps, std::vector<std::string> more = {}, const char* command = "run") {
  std::vector<std::string> arguments{command, scenario, "--json", "--set",
                                     "run.steps=" + std::to_string(steps)};
  arguments.insert(arguments.end(), more.begin(), more.end());
  const Finished run = orrery_with(arguments);
  REQUIRE_MESSAGE(run.exit == 0, run.err);
  return run.json<Json>();
}

}  // namespace

TEST_CASE("training on this machine takes the loss below the bigram entropy of the text") {
  const double entropy =
      bigram_entropy(text_of_file(std::string(ORRERY_SOURCE_DIR) + "/scenarios/texts/gpl-3.txt"));
  CHECK(entropy > 2);
  CHECK(entropy < 3);
  const Finished run = orrery_with({"run", scenario, "--world", "cpu", "--json"});
  REQUIRE_MESSAGE(run.exit == 0, run.err);
  const auto loss = run.json<Json>()["loss"].get<std::vector<double>>();
  REQUIRE(loss.size() == 300);
  CHECK(std::abs(loss.front() - std::log(256)) < 0.5);
  double last = 0;
  for (std::size_t i = loss.size() - 20; i < loss.size(); ++i) last += loss[i] / 20;
  CHECK_MESSAGE(last < entropy, last << " nats, bigrams " << entropy);
}

TEST_CASE("a checkpoint that is not there is exit 3") {
  CHECK(orrery_with({"run", scenario, "--resume", "none/of/this"}).exit == 3);
}

TEST_CASE("simulation and run have the same losses, also by the decisions of the other") {
  const TemporaryFolder folder;
  const std::string file = folder.file("decisions");
  const Json simulated = run_steps(5, {"--set", "run.record=" + file}, "simulate");
  CHECK(simulated["loss"].size() == 5);
  CHECK(run_steps(5, {"--set", "run.replay=" + file})["loss"] == simulated["loss"]);
  CHECK(simulated["memory"]["peak_bytes"] == run_steps(5)["memory"]["peak_bytes"]);
}

TEST_CASE("both worlds tell how stale gradients were, who took how many, and what a loss took") {
  for (const char* algorithm : {"ddp", "acco", "a2cid2"}) {
    CAPTURE(std::string(algorithm));
    const TemporaryFolder folder;
    const std::string name = std::string("algorithm={name: ") + algorithm + "}",
                      file = folder.file("decisions");
    const Json simulated = run_steps(6, {"--set", name, "--set", "run.record=" + file}, "simulate"),
               real = run_steps(6, {"--set", name, "--set", "run.replay=" + file});
    CHECK(!simulated["staleness"].empty());
    CHECK(real["staleness"] == simulated["staleness"]);
    CHECK(real["loss_at"]["bytes_per_rank"] == simulated["loss_at"]["bytes_per_rank"]);
    CHECK(real["loss_at"]["samples"] == simulated["loss_at"]["samples"]);
    REQUIRE(real["workers"].size() == simulated["ranks"].get<std::size_t>());
    for (std::size_t worker = 0; worker < real["workers"].size(); ++worker)
      CHECK(real["workers"][worker]["sample_share"] ==
            simulated["workers"][worker]["sample_share"]);
    CHECK(real["loss_at"]["seconds"].back() > 0.0);
  }
}

TEST_CASE("a result of this machine names no cluster and no MFU") {
  const Json r = run_steps(2);
  CHECK(r["world"] == "cpu");
  CHECK(r["cluster"].is_null());
  CHECK(r["mfu"].is_null());
}

TEST_CASE("the parts of a measured step sum to it, in every plan") {
  for (const char* file : {"scenarios/mlp-ddp.yaml", "scenarios/mlp-1f1b.yaml"}) {
    const Finished run = orrery_with({"run", file, "--json", "--set", "run.steps=20"});
    REQUIRE_MESSAGE(run.exit == 0, run.err);
    const Json r = run.json<Json>();
    double sum = 0;
    for (const auto& [part, seconds] : r["time"].items()) sum += seconds.get<double>();
    CHECK(sum == doctest::Approx(r["step_time_s"].get<double>()).epsilon(1e-9));
  }
}

TEST_CASE("a world that this build or machine lacks is exit 6, one that nobody knows exit 2") {
  const Json doctor = orrery_with({"doctor", "--json"}).json<Json>();
  if (!doctor["cuda_missing"].is_null()) {
    const Finished run = orrery_with({"run", scenario, "--world", "cuda"});
    CHECK(run.exit == 6);
    CHECK(run.err.find(doctor["cuda_missing"].get<std::string>()) != std::string::npos);
  }
  CHECK(orrery_with({"run", scenario, "--world", "gpu"}).exit == 2);
}

TEST_CASE("one of several processes is refused, and told what to do") {
  const Json doctor = orrery_with({"doctor", "--json"}).json<Json>();
  const Json missing = doctor["cuda_missing"];
  if (missing.is_string() && contains(missing.get<std::string>(), "this build has no CUDA world"))
    return;
  ProcessOptions options;
  options.environment = {{"RANK", "1"}, {"WORLD_SIZE", "2"}};
  const Finished run = orrery_with({"run", scenario, "--world", "cuda"}, options);
  CHECK(run.exit == 6);
  CHECK(contains(run.err, "one of 2 processes"));
  CHECK(contains(run.err, "start one"));
}
