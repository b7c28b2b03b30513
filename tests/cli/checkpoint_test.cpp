// Checkpoints of `orrery run`: what they continue to, and that no moment of a kill spoils them.
#include <doctest/doctest.h>
#include <signal.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <random>

#include "tests/cli/killed.hpp"
#include "tests/cli/process.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

const std::string scenario = "scenarios/mlp-1f1b.yaml";

std::vector<std::string> run_of(int steps, std::vector<std::string> more = {}) {
  std::vector<std::string> arguments{"run",
                                     scenario,
                                     "--json",
                                     "--set",
                                     "run.steps=" + std::to_string(steps),
                                     "--set",
                                     "data.global_batch=16",
                                     "--set",
                                     "data.micro_batch=4",
                                     "--set",
                                     "platform.gpus=2"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

std::vector<double> losses(const Json& result) { return result["loss"].get<std::vector<double>>(); }

}  // namespace

TEST_CASE("a checkpoint continues to the same losses and the same state") {
  const TemporaryFolder folder;
  const std::string whole = folder.file("whole"), state = folder.file("state");
  const auto all = losses(result_of<Json>(run_of(12, {"--checkpoint", whole})));
  const auto first = losses(result_of<Json>(run_of(5, {"--checkpoint", state})));
  const Json rest = result_of<Json>(run_of(12, {"--resume", state, "--checkpoint", state}));
  CHECK(rest["steps"] == 7);
  CHECK(rest["steps_before"] == 5);
  auto both = first;
  for (const double loss : losses(rest)) both.push_back(loss);
  CHECK(both == all);
  CHECK(text_of_file(state) == text_of_file(whole));
}

TEST_CASE("gossip goes on from its end, where each worker has taken steps of its own number") {
  const TemporaryFolder folder;
  const std::string state = folder.file("state");
  const auto gossip = [&](int steps, const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"run",    "scenarios/mlp-a2cid2.yaml",
                                       "--json", "--quiet",
                                       "--set",  "run.steps=" + std::to_string(steps)};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return result_of<Json>(arguments);
  };
  const auto first = gossip(15, {"--checkpoint", state})["loss_at"]["loss"];
  const auto rest = gossip(25, {"--resume", state})["loss_at"]["loss"];
  REQUIRE(!rest.empty());
  CHECK(rest.back().get<double>() < first.front().get<double>());
}

TEST_CASE("taking checkpoints changes no bit, and the last one is that of the end") {
  const TemporaryFolder folder;
  const std::string whole = folder.file("whole"), often = folder.file("often");
  const Json without = result_of<Json>(run_of(7, {"--checkpoint", whole}));
  const Json with = result_of<Json>(run_of(7, {"--checkpoint", often, "--checkpoint-every", "1"}));
  CHECK(with["loss"] == without["loss"]);
  CHECK(with["memory"] == without["memory"]);
  CHECK(text_of_file(often) == text_of_file(whole));
  CHECK(folder.names() == std::vector<std::string>{"often", "whole"});
}

TEST_CASE("a resumed run has nothing left to do at its last step, and cannot go back") {
  const TemporaryFolder folder;
  const std::string state = folder.file("state"), again = folder.file("again");
  result_of<Json>(run_of(4, {"--checkpoint", state}));
  const Json done = result_of<Json>(run_of(4, {"--resume", state, "--checkpoint", again}));
  CHECK(done["steps"] == 0);
  CHECK(done["step_time_s"].is_null());
  CHECK(text_of_file(again) == text_of_file(state));
  const Finished back = orrery_with(run_of(3, {"--resume", state}));
  CHECK(back.exit == 3);
  CHECK(contains(back.err, "of step 4, beyond run.steps = 3"));
}

TEST_CASE("the files of a resumed run count its steps on") {
  const TemporaryFolder folder;
  const std::string state = folder.file("state"), out = folder.file("out");
  result_of<Json>(run_of(3, {"--checkpoint", state}));
  const Finished rest = orrery_with({"run", scenario, "--set", "run.steps=5", "--set",
                                     "data.global_batch=16", "--set", "data.micro_batch=4", "--set",
                                     "platform.gpus=2", "--resume", state, "--out", out});
  REQUIRE_MESSAGE(rest.exit == 0, rest.err);
  CHECK(contains(rest.out, "after 3 steps of an earlier run"));
  const std::string metrics = text_of_file(out + "/metrics.csv");
  CHECK(contains(metrics, "\n4,"));
  CHECK(contains(metrics, "\n5,"));
  CHECK(!contains(metrics, "\n3,"));
}

TEST_CASE("--checkpoint-every is a number of steps and needs a file") {
  CHECK(orrery_with(run_of(2, {"--checkpoint-every", "1"})).exit == 2);
  for (const char* number : {"0", "-1", "two", "1.5"})
    CHECK(orrery_with(run_of(2, {"--checkpoint", "x", "--checkpoint-every", number})).exit == 2);
}

// Moments are counted in what happens to the checkpoint's files (made, written, closed, renamed)
// and then in instructions of this process, so that they fall before, into and between checkpoints.
TEST_CASE("a run killed at any moment and resumed ends in the same bits as an uninterrupted one") {
  const TemporaryFolder folder;
  constexpr int steps = 12;
  const std::string whole = folder.file("whole");
  result_of<Json>(run_of(steps, {"--checkpoint", whole, "--checkpoint-every", "2"}));
  const std::string expected = text_of_file(whole);
  std::mt19937 random(20);
  int killed = 0, resumed = 0;
  for (int trial = 0; trial < 20; ++trial) {
    const TemporaryFolder own;
    const std::string state = own.file("state");
    const auto events =
        static_cast<unsigned>(random() % 24);  // at least 4 for each of 6 checkpoints
    const auto spins = static_cast<unsigned>(random() % 3'000'000);
    ProcessOptions options;
    options.while_it_runs = kill_after(own.path(), events, spins);
    const std::vector<std::string> arguments =
        run_of(steps, {"--checkpoint", state, "--checkpoint-every", "2"});
    killed += orrery_with(arguments, options).signal == SIGKILL ? 1 : 0;
    std::vector<std::string> again = arguments;
    if (std::filesystem::exists(state)) {
      again.insert(again.end(), {"--resume", state});
      ++resumed;
    }
    result_of<Json>(again);
    CHECK_MESSAGE(text_of_file(state) == expected, "after " << events << " events");
  }
  CHECK(killed >= 10);
  CHECK(resumed >= 10);
}
