// `orrery run --world cpu`: training for real, and decisions between worlds.
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include <array>
#include <cmath>
#include <map>
#include <thread>

#include "tests/cli/process.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

const std::string mlp_ddp = "scenarios/mlp-ddp.yaml";

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
  std::vector<std::string> arguments{command, mlp_ddp, "--json", "--set",
                                     "run.steps=" + std::to_string(steps)};
  arguments.insert(arguments.end(), more.begin(), more.end());
  const Finished run = orrery_with(arguments);
  REQUIRE_MESSAGE(run.exit == 0, run.err);
  return run.json<Json>();
}

// Whether this build has a CUDA world, with or without a GPU for it.
bool with_cuda() {
  const Json missing = orrery_with({"doctor", "--json"}).json<Json>()["cuda_missing"];
  return !missing.is_string() ||
         !contains(missing.get<std::string>(), "this build has no CUDA world");
}

using Variables = std::map<std::string, std::string>;

Finished run_as(const Variables& variables, const std::vector<std::string>& more = {}) {
  ProcessOptions options;
  options.environment = variables;
  std::vector<std::string> arguments{"run", mlp_ddp, "--world", "cuda"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return orrery_with(arguments, options);
}

// A TCP port that nobody listens on.
int free_port() {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  REQUIRE(bind(listener, reinterpret_cast<sockaddr*>(&address), size) == 0);
  REQUIRE(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  close(listener);
  return ntohs(address.sin_port);
}

// Two processes that find each other on this machine, each with its arguments.
std::array<Finished, 2> two_processes(const std::vector<std::string>& first,
                                      const std::vector<std::string>& second) {
  const std::string port = std::to_string(free_port());
  const auto variables = [&](int rank) {
    return Variables{{"RANK", std::to_string(rank)},
                     {"LOCAL_RANK", std::to_string(rank)},
                     {"WORLD_SIZE", "2"},
                     {"MASTER_ADDR", "127.0.0.1"},
                     {"MASTER_PORT", port}};
  };
  std::array<Finished, 2> finished;
  std::thread other([&] { finished[1] = run_as(variables(1), second); });
  finished[0] = run_as(variables(0), first);
  other.join();
  return finished;
}

}  // namespace

TEST_CASE("training on this machine takes the loss below the bigram entropy of the text") {
  const double entropy =
      bigram_entropy(text_of_file(std::string(ORRERY_SOURCE_DIR) + "/scenarios/texts/gpl-3.txt"));
  CHECK(entropy > 2);
  CHECK(entropy < 3);
  const Finished run = orrery_with({"run", mlp_ddp, "--world", "cpu", "--json"});
  REQUIRE_MESSAGE(run.exit == 0, run.err);
  const auto loss = run.json<Json>()["loss"].get<std::vector<double>>();
  REQUIRE(loss.size() == 300);
  CHECK(std::abs(loss.front() - std::log(256)) < 0.5);
  double last = 0;
  for (std::size_t i = loss.size() - 20; i < loss.size(); ++i) last += loss[i] / 20;
  CHECK_MESSAGE(last < entropy, last << " nats, bigrams " << entropy);
}

TEST_CASE("a checkpoint that is not there is exit 3") {
  CHECK(orrery_with({"run", mlp_ddp, "--resume", "none/of/this"}).exit == 3);
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
    const Finished run = orrery_with({"run", mlp_ddp, "--world", "cuda"});
    CHECK(run.exit == 6);
    CHECK(run.err.find(doctor["cuda_missing"].get<std::string>()) != std::string::npos);
  }
  CHECK(orrery_with({"run", mlp_ddp, "--world", "gpu"}).exit == 2);
}

TEST_CASE("what is wrong with the variables of several processes is named, exit 2") {
  if (!with_cuda()) return;
  const std::vector<std::pair<Variables, std::string>> cases{
      {{{"WORLD_SIZE", "2"}}, "RANK is not set, though WORLD_SIZE is"},
      {{{"RANK", "0"}}, "WORLD_SIZE is not set, though RANK is"},
      {{{"RANK", "0"}, {"WORLD_SIZE", "2"}}, "MASTER_PORT is not set, though RANK is"},
      {{{"RANK", "2"}, {"WORLD_SIZE", "2"}}, "RANK is 2, WORLD_SIZE only 2"},
      {{{"RANK", "one"}, {"WORLD_SIZE", "2"}}, "RANK is not a number: one"}};
  for (const auto& [variables, why] : cases) {
    const Finished run = run_as(variables);
    CHECK(run.exit == 2);
    CHECK_MESSAGE(contains(run.err, why), run.err);
  }
}

TEST_CASE("a scenario of another number of ranks than there are processes ends both, exit 2") {
  if (!with_cuda()) return;
  for (const Finished& run : two_processes({}, {})) {  // of 4 ranks
    CHECK(run.exit == 2);
    CHECK_MESSAGE(contains(run.err, "the scenario has 4 ranks, and WORLD_SIZE is 2"), run.err);
    CHECK(contains(run.err, "platform.gpus=2"));
  }
}

TEST_CASE("a process with another scenario than that of rank 0 ends both, exit 3") {
  if (!with_cuda()) return;
  const std::vector<std::string> two{"--set", "platform.gpus=2"};
  const auto finished = two_processes(two, {"--set", "platform.gpus=2", "--seed", "2"});
  CHECK(finished[1].exit == 3);
  CHECK_MESSAGE(contains(finished[1].err, "rank 1 was started with another scenario"),
                finished[1].err);
  // Where there is no GPU, rank 0 may have found that out before.
  CHECK_MESSAGE((finished[0].exit == 3 || contains(finished[0].err, "no GPU can be used")),
                finished[0].err);
}

TEST_CASE("what needs all ranks in one process is refused to each of several, exit 2") {
  if (!with_cuda()) return;
  const std::vector<std::string> arguments{"--set", "platform.gpus=2", "--profile"};
  for (const Finished& run : two_processes(arguments, arguments)) {
    CHECK(run.exit == 2);
    CHECK_MESSAGE(contains(run.err, "--profile needs all ranks in one process"), run.err);
  }
}

TEST_CASE("where one of two processes lacks a GPU both say so, exit 6") {
  if (!with_cuda() || orrery_with({"doctor", "--json"}).json<Json>()["cuda_missing"].is_null())
    return;
  const std::vector<std::string> two{"--set", "platform.gpus=2"};
  for (const Finished& run : two_processes(two, two)) {
    CHECK(run.exit == 6);
    CHECK_MESSAGE(contains(run.err, "no GPU can be used"), run.err);
    CHECK(run.out.empty());
  }
}
