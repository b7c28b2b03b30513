// The smaller commands: memory, list, explain, doctor, help, completions.
#include <doctest/doctest.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <set>

#include "scenarios/cli/command.hpp"
#include "scenarios/cli/figures.hpp"
#include "tests/cli/process.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

bool installed(const std::string& program) {
  return run_process({"sh", "-c", "command -v " + program}).exit == 0;
}

}  // namespace

TEST_CASE("`memory` tells the peak that the simulation reports, for every stage") {
  for (const std::string& scenario :
       {quickstart, std::string("scenarios/mlp-1f1b.yaml"), std::string("scenarios/mlp-ddp.yaml"),
        std::string("scenarios/llama-7b-fsdp.yaml")})
    for (const char* set : {"run.steps=2", "run.steps=5", "memory.recompute=full"}) {
      const std::vector<std::string> rest{scenario, "--json", "--set",
                                          set,      "--set",  "run.values=virtual"};
      auto simulate = rest, memory = rest;
      simulate.insert(simulate.begin(), "simulate");
      memory.insert(memory.begin(), "memory");
      const Json result = orrery_with(simulate).json<Json>()["memory"];
      const Json stages = orrery_with(memory).json<Json>()["stages"];
      Json largest = stages[0];
      for (const Json& stage : stages)
        if (stage["peak_bytes"] > largest["peak_bytes"]) largest = stage;
      CAPTURE(scenario);
      CAPTURE(set);
      for (const char* key : {"peak_bytes", "capacity_bytes", "by_label"})
        CHECK(largest[key] == result[key]);
      CHECK(stages.size() == (scenario == "scenarios/mlp-1f1b.yaml" ? 2 : 1));
    }
}

TEST_CASE("`memory` tells what would be needed where it does not fit, and is quick") {
  const auto start = std::chrono::steady_clock::now();
  const Finished run = orrery_with({"memory", quickstart, "--set", "model=llama-2-7b"});
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  CHECK(run.exit == 0);
  CHECK(contains(run.out, "does not fit"));
  CHECK(took.count() < 2);  // 0.2 s on a quiet machine; tests share theirs
  const Json stage = orrery_with({"memory", quickstart, "--json", "--set", "model=llama-2-7b"})
                         .json<Json>()["stages"][0];
  CHECK(stage["fits"] == false);
  CHECK(stage["peak_bytes"] > stage["capacity_bytes"]);
}

TEST_CASE("where a scenario does not fit, the changes that `memory` names make it fit") {
  const std::vector<std::string> case_{"memory", quickstart, "--json", "--set", "model=llama-2-7b"};
  const Json fits = orrery_with(case_).json<Json>()["nearest_fits"];
  REQUIRE(!fits.empty());
  for (const Json& fit : fits) {
    std::vector<std::string> changed = case_;
    std::string text = fit["change"];
    while (text.starts_with("--set '")) {
      const std::size_t end = text.find('\'', 7);
      changed.insert(changed.end(), {"--set", text.substr(7, end - 7)});
      text = end + 2 < text.size() ? text.substr(end + 2) : "";
    }
    const Json stages = orrery_with(changed).json<Json>()["stages"];
    CHECK(stages[0]["fits"] == true);
    CHECK(stages[0]["peak_bytes"] == fit["peak_bytes"]);
  }
  const Finished simulated = orrery_with({"simulate", quickstart, "--set", "model=llama-2-7b"});
  CHECK(simulated.exit == 4);
  CHECK(contains(simulated.err, "fits with: " + fits[0]["change"].get<std::string>()));
}

TEST_CASE("every kind can be listed, as a table and as objects with names") {
  for (const std::string& kind : cli::list_kinds()) {
    CAPTURE(kind);
    const Json rows = orrery_with({"list", kind, "--json"}).json<Json>();
    REQUIRE(!rows.empty());
    std::set<std::string> names;
    const std::string table = orrery_with({"list", kind}).out;
    for (const Json& row : rows) {
      CHECK(!row.contains("error"));
      CHECK(contains(table, row["name"]));
      names.insert(row["name"].get<std::string>());
    }
    if (kind != "fits" && kind != "platforms") CHECK(names.size() == rows.size());
  }
}

TEST_CASE("everything that is listed can be explained") {
  for (const std::string kind : {"models", "gpus", "nodes", "clusters", "stacks", "algorithms"})
    for (const Json& row : orrery_with({"list", kind, "--json"}).json<Json>()) {
      const std::string name = row["name"];
      const Finished run = orrery_with({"explain", name});
      CAPTURE(name);
      CHECK(run.exit == 0);
      CHECK(contains(run.out, name));
    }
  for (const Json& row : orrery_with({"list", "schedules", "--json"}).json<Json>())
    if (row["available"] == true)
      CHECK(orrery_with({"explain", row["name"].get<std::string>()}).exit == 0);
}

TEST_CASE("an algorithm is explained by its source: paper, pseudo-code, cost") {
  const std::string text = orrery_with({"explain", "ddp"}).out;
  for (const char* part : {"arXiv 2006.15704", "Cost", "bytes per rank", "algorithms/ddp.cpp"})
    CHECK(contains(text, part));
  CHECK(!contains(text, "//"));
}

TEST_CASE("every figure of a result is explained, in the result's order") {
  const Json result = orrery_with({"simulate", quickstart, "--json"}).json<Json>();
  std::vector<std::string> keys;
  for (const auto& [key, value] : result.items()) {
    keys.push_back(key);
    if (key == "time")
      for (const auto& [part, seconds] : value.items()) keys.push_back(part);
    if (key == "work") keys.insert(keys.end(), {"phases_s", "classes_s"});
  }
  std::vector<std::string> explained;
  for (const cli::Figure& figure : cli::figures())
    if (std::string name = figure.name; name != "loss_held_out" && name != "loss_consensus" &&
                                        name != "steps_before" && name != "workers" &&
                                        name != "loss_at")
      explained.push_back(std::move(name));
  CHECK(explained == keys);
  CHECK(contains(orrery_with({"explain", "mfu"}).out, "dense peaks"));
  CHECK(contains(orrery_with({"explain", "step_time"}).out, "slowest rank"));
  CHECK(contains(orrery_with({"explain", "parallel.pipeline"}).out, "stages"));
}

TEST_CASE("a platform is explained by its numbers, each with its source") {
  const Json gpu = orrery_with({"explain", "A100 80GB", "--json"}).json<Json>();
  CHECK(gpu["name"] == "a100-sxm-80gb");
  CHECK(gpu["numbers"].size() > 10);
  for (const Json& number : gpu["numbers"]) CHECK(number["source"] != "");
}

TEST_CASE("`doctor` tells versions and limits") {
  const Json j = orrery_with({"doctor", "--json"}).json<Json>();
  for (const char* key : {"version", "build", "cuda", "cuda_missing", "gpus", "nccl", "cudnn",
                          "mpi", "simgrid", "cpu", "cpu_threads", "memory_bytes", "stack_limit",
                          "max_map_count", "max_processes", "max_threads", "data", "advice"})
    CHECK_MESSAGE(j.contains(key), key);
  CHECK(j["cpu_threads"] > 0);
  CHECK(contains(orrery_with({"doctor"}).out, "max_map_count"));
}

TEST_CASE("help, the manual page and the completions know every command and its options") {
  const std::string help = orrery_with({"help"}).out;
  const std::string man = orrery_with({"help", "--man"}).out;
  CHECK(orrery_with({"--help"}).out == help);
  for (const cli::Command& command : cli::commands()) {
    CAPTURE(command.name);
    CHECK(contains(help, std::string("\n  ") + command.name + " "));
    CHECK(contains(man, std::string(".SS orrery ") + command.name));
    const Finished own = orrery_with({"help", command.name});
    CHECK(own.out == orrery_with({command.name, "--help"}).out);
    CHECK(own.exit == 0);
    CHECK(contains(own.out, std::string("example: ") + command.example));
    for (const cli::Option* option : cli::options_of(command))
      CHECK(contains(own.out, std::string("  --") + option->name + " "));
  }
  for (const std::string& shell : cli::shells()) {
    const std::string script = orrery_with({"completion", shell}).out;
    for (const cli::Command& command : cli::commands()) CHECK(contains(script, command.name));
    for (const cli::Option& option : cli::options()) CHECK(contains(script, option.name));
  }
  for (const cli::ExitCode& e : cli::exit_codes()) CHECK(contains(man, e.meaning));
}

TEST_CASE("lines of help are at most 100 columns wide") {
  std::string all = orrery_with({"help"}).out;
  for (const cli::Command& command : cli::commands())
    all += orrery_with({"help", command.name}).out;
  std::size_t column = 0, widest = 0;
  for (const char c : all) {
    column = c == '\n' ? 0 : column + 1;
    widest = std::max(widest, column);
  }
  CHECK(widest <= 100);
}

TEST_CASE("shells accept their completions, and bash completes") {
  const TemporaryFolder folder;
  for (const std::string& shell : cli::shells()) {
    if (!installed(shell)) continue;
    CAPTURE(shell);
    const Finished parsed = run_process(
        {"sh", "-c", "'" ORRERY_PROGRAM "' completion " + shell + " | " + shell + " -n"});
    CHECK_MESSAGE(parsed.exit == 0, parsed.err);
  }
  if (!installed("bash")) return;
  const auto complete = [](const std::string& line) {
    const std::string script = "source <('" ORRERY_PROGRAM "' completion bash); COMP_WORDS=(" +
                               line +
                               "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _orrery; echo "
                               "\"${COMPREPLY[*]}\"";
    return run_process({"bash", "-c", script}).out;
  };
  CHECK(complete("orrery sim") == "simulate\n");
  CHECK(complete("orrery simulate --se") == "--set --seed\n");
  CHECK(complete("orrery simulate scenarios/quickstart.") == "scenarios/quickstart.yaml\n");
  CHECK(complete("orrery list gp") == "gpus\n");
  CHECK(complete("orrery simulate x --color al") == "always\n");
  CHECK(complete("orrery explain mf") == "mfu\n");
}

TEST_CASE("man(1) formats the manual page without complaint, where there is one") {
  if (!installed("groff")) return;
  const Finished page = run_process(
      {"sh", "-c", "'" ORRERY_PROGRAM "' help --man | groff -man -Tascii -ww 2>&1 >/dev/null"});
  CHECK(page.out.empty());
}

TEST_CASE("`--version` and `schema` answer") {
  CHECK(orrery_with({"--version"}).out.starts_with("orrery "));
  CHECK(orrery_with({"schema"}).json<Json>().contains("$schema"));
}
