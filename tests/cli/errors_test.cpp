// What goes wrong, and how the program says so: exit codes, messages, pipes, signals.
#include <doctest/doctest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/cli/process.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

// Waits until `ready` holds, at most 30 s.
template <class Ready>
void wait_until(Ready ready) {
  for (int i = 0; i < 3000 && !ready(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

struct Case {
  std::vector<std::string> arguments;
  int exit;
  std::string message;
};

}  // namespace

TEST_CASE("wrong command lines are exit 2 and say what was meant") {
  const std::vector<Case> cases{
      {{}, 2, "no command given"},
      {{"simulat"}, 2, "did you mean 'simulate'?"},
      {{"zzz"}, 2, "there are simulate, run,"},
      {{"simulate"}, 2, "'simulate' takes one SCENARIO"},
      {{"simulate", "a", "b"}, 2, "'simulate' takes one SCENARIO"},
      {{"simulate", "a", "--jsn"}, 2, "did you mean '--json'?"},
      {{"simulate", "a", "--set"}, 2, "--set"},
      {{"simulate", "a", "--seed", "-1"}, 2, "--seed takes a whole number"},
      {{"simulate", "a", "--seed", "x"}, 2, "--seed takes a whole number"},
      {{"simulate", "a", "--color", "red"}, 2, "--color takes auto, always or never"},
      {{"simulate", quickstart, "--trace"}, 2, "--trace needs --out"},
      {{"check", quickstart, "--out", "x"}, 2, "unknown option '--out'"},
      {{"schema", "x"}, 2, "'schema' takes options only"},
      {{"list", "gpu"}, 2, "did you mean 'gpus'?"},
      {{"explain", "mfuu"}, 2, "did you mean 'mfu'?"},
      {{"completion", "bahs"}, 2, "did you mean 'bash'?"},
      {{"help", "simulat"}, 2, "did you mean 'simulate'?"}};
  for (const Case& c : cases) {
    const Finished run = orrery_with(c.arguments);
    CAPTURE(run.err);
    CAPTURE(c.message);
    CHECK(run.exit == c.exit);
    CHECK(run.out.empty());
    CHECK(contains(run.err, c.message));
    CHECK(contains(run.err, "error[usage]"));
  }
}

TEST_CASE("files that are missing, folders, or not writable are exit 3 with the file's name") {
  const TemporaryFolder folder;
  const std::string file = folder.file("taken");
  { std::filesystem::copy(std::string(ORRERY_SOURCE_DIR) + "/LICENSE", file); }
  const std::vector<Case> cases{
      {{"simulate", "no/such.yaml"}, 3, "no/such.yaml"},
      {{"simulate", "scenarios"}, 3, "not a regular file"},
      {{"check", "/dev/null"}, 3, "/dev/null"},
      {{"simulate", quickstart, "--out", file}, 3, file},
      {{"simulate", quickstart, "--out", file + "/below"}, 3, file},
      {{"trace", quickstart, "--out", file}, 3, file},
      {{"simulate", quickstart, "--set", "run.record=" + file + "/x"}, 3, file},
      {{"simulate", quickstart, "--set", "run.replay=no/such"}, 3, "no/such"}};
  for (const Case& c : cases) {
    const Finished run = orrery_with(c.arguments);
    CAPTURE(run.err);
    CHECK(run.exit == c.exit);
    CHECK(run.out.empty());
    CHECK(contains(run.err, c.message));
  }
  CHECK(folder.names() == std::vector<std::string>{"taken"});
}

TEST_CASE("errors in a scenario come all at once, with file, line, column and suggestion") {
  const TemporaryFolder folder;
  const std::string file = folder.file("bad.yaml");
  const Finished run = orrery_with(
      {"simulate", quickstart, "--json", "--set", "modl=x", "--set", "parallel.tensr=2"});
  CHECK(run.exit == 3);
  const Json error = run.json<Json>()["error"];
  CHECK(error["category"] == "config");
  CHECK(error["exit_code"] == 3);
  CHECK(error["messages"].size() == 2);
  for (const Json& message : error["messages"]) {
    CHECK(message["file"] == "--set");
    CHECK(message["line"] == 1);
    CHECK(contains(message["suggestion"], "did you mean"));
  }
}

TEST_CASE("pictures are whole records, at least one, with labels that the model knows") {
  const TemporaryFolder folder;
  const std::string pictures = folder.file("pictures");
  const auto check = [&](const std::string& bytes) {
    std::ofstream(pictures, std::ios::binary) << bytes;
    return orrery_with({"check", "scenarios/revnet-petra.yaml", "--set", "run.values=real", "--set",
                        "data.text=" + pictures});
  };
  const auto record = [](char label) { return label + std::string(3 * 32 * 32, 'x'); };
  CHECK(check(record(0) + record(9)).exit == 0);
  const std::pair<std::string, std::string> wrong[]{
      {"", "0 bytes are no whole records of 3073"},
      {record(0) + "x", "3074 bytes are no whole records of 3073"},
      {record(9) + record(10) + record(11), "the label of record 2 is 10, of 10 classes"}};
  for (const auto& [bytes, message] : wrong) {
    const Finished run = check(bytes);
    CHECK(run.exit == 3);
    CHECK_MESSAGE(contains(run.err, message), run.err);
  }
}

TEST_CASE("with --json every failure is one object on stdout") {
  for (const auto& [arguments, code] :
       {std::pair{std::vector<std::string>{"simulat", "--json"}, 2},
        {std::vector<std::string>{"simulate", "none.yaml", "--json"}, 3},
        {std::vector<std::string>{"simulate", quickstart, "--json", "--set", "model=llama-2-7b"},
         4},
        {std::vector<std::string>{"run", quickstart, "--json", "--world", "cuda"}, 6}}) {
    const Finished run = orrery_with(arguments);
    CHECK(run.exit == code);
    CHECK(run.json<Json>()["error"]["exit_code"] == code);
    CHECK(!run.json<Json>()["error"]["messages"].empty());
  }
}

TEST_CASE("a closed pipe on stdout ends the program quietly") {
  ProcessOptions closed;
  closed.stdout_is_closed_pipe = true;
  for (const std::string command : {"help", "schema"}) {
    const Finished run = orrery_with({command}, closed);
    CHECK((run.exit == 0 || run.signal == SIGPIPE));
    CHECK(run.err.empty());
  }
}

TEST_CASE("a full disk behind stdout is an error, not a success") {
  if (!std::filesystem::exists("/dev/full")) return;
  ProcessOptions full;
  full.stdout_to = "/dev/full";
  const Finished run = orrery_with({"help"}, full);
  CHECK(run.exit == 1);
  CHECK(contains(run.err, "cannot write to standard output"));
}

TEST_CASE("colours come when forced, and NO_COLOR wins over CLICOLOR_FORCE") {
  const std::vector<std::string> command{"simulate", quickstart};
  const auto colored = [&](std::map<std::string, std::string> environment,
                           std::vector<std::string> more = {}) {
    ProcessOptions options;
    options.environment = std::move(environment);
    more.insert(more.begin(), command.begin(), command.end());
    return contains(orrery_with(more, options).out, "\033[");
  };
  CHECK(!colored({}));
  CHECK(colored({{"CLICOLOR_FORCE", "1"}}));
  CHECK(!colored({{"CLICOLOR_FORCE", "1"}, {"NO_COLOR", "1"}}));
  CHECK(colored({{"NO_COLOR", "1"}}, {"--color", "always"}));
  CHECK(!colored({{"CLICOLOR_FORCE", "1"}}, {"--color", "never"}));
}

TEST_CASE("Ctrl-C during a simulation is exit 130 and leaves no file behind") {
  const TemporaryFolder folder;
  ProcessOptions options;
  options.while_it_runs = [&](pid_t child) {
    wait_until([&] { return !folder.names().empty(); });  // the trace's temporary file
    kill(child, SIGINT);
  };
  const Finished run = orrery_with({"simulate", quickstart, "--set", "run.steps=1000000", "--trace",
                                    "--json", "--out", folder.path()},
                                   options);
  CHECK(run.exit == 130);
  CHECK(contains(run.err, "interrupted"));
  CHECK(run.json<Json>()["error"]["category"] == "interrupted");
  CHECK(folder.names().empty());
}

TEST_CASE("Ctrl-C ends a run on this machine, threads and all, and SIGTERM does too") {
  for (const int signal : {SIGINT, SIGTERM}) {
    ProcessOptions options;
    options.while_it_runs = [signal](pid_t child) {
      wait_until([child] {
        int threads = 0;
        std::error_code none;
        for ([[maybe_unused]] const auto& task :
             std::filesystem::directory_iterator("/proc/" + std::to_string(child) + "/task", none))
          ++threads;
        return threads > 2;
      });
      kill(child, signal);
    };
    const Finished run =
        orrery_with({"run", "scenarios/mlp-ddp.yaml", "--set", "run.steps=1000000"}, options);
    CHECK(run.exit == 128 + signal);
    CHECK(run.out.empty());
  }
}
