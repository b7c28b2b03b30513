// The twin: is this machine's own simulation right? Runs and simulates a set of small trainings
// (`orrery validate`), with a platform that `orrery calibrate` measured here, and prints a JSON
// object per case and a summary.
//
//   bench_twin [--grid plans|low-communication] [--platform FILE [--stack NAME]] [--only TEXT]
//              [--rounds N] [--steps N] [--form]
//
// There are two sets. `plans`: models, plans and links. `low-communication`: DDP, DiLoCo, Streaming
// DiLoCo and ACCO on four ranks with links of 100 Mbit/s and 5 ms, and Streaming DiLoCo with these
// hidden.
//
// A shared machine may be a third slower for minutes. So there are several rounds, each a
// calibration and a run of every case, and a case's error is the median over the rounds of what
// that round's calibration says against that round's run. Shares of compute and growth of memory
// are those of the worst round.
//
// --platform: instead of calibrating. --only: cases with this in their name. --form: one tiny case
// that shows the form, without a verdict.
//
// Exit 1 when over the set the median absolute error of the step time is above 10 % (of
// `low-communication`: 15 %), the worst above 20 %, a step computes for less than 30 % of its time,
// a memory peak is not exact, or the process grows by more than 15 % beside it (of
// `low-communication`: the worst and the growth may be any).
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/bench/twin/measuring.hpp"

namespace {

using Json = nlohmann::ordered_json;
using namespace orrery::bench;

constexpr double least_compute_share = 0.30;
constexpr int micro_batches = 4;  // per replica and step, unless it accumulates

// Samples that one rank computes per step, so that it takes 50 to 500 ms on one core. Models are
// deep for their width: per sample, compute grows with layers x width^2 and a stage's messages with
// the width, so that computing stays a fair part of a step over the slowest link.
struct Size {
  const char* model;
  const char* name;
  int samples;
};
constexpr Size sizes[]{{"gpt", "small", 16},  {"gpt", "medium", 12},  {"gpt", "large", 12},
                       {"mlp", "small", 768}, {"mlp", "medium", 768}, {"mlp", "large", 768}};

struct Plan {
  const char* name;
  int ranks, stages;
};
constexpr Plan plans[]{{"1 rank", 1, 1}, {"ddp", 2, 1}, {"1f1b", 2, 2}};

struct Link {
  const char* name;      // "" for this machine's memory
  const char* throttle;  // platform.throttle
  int accumulation;      // DDP computes so many times as much between its reductions
};
constexpr Link links[]{{"", "null", 1},
                       {" 1 Gbit/s", "{latency: 1ms, bandwidth: 1Gbps}", 1},
                       {" 100 Mbit/s", "{latency: 1ms, bandwidth: 100Mbps}", 4}};

// Four ranks that share a link which is slow for them; a step is as many samples of each as of one
// of the plans, times `accumulation`. DiLoCo's steps make whole rounds, but for the first step,
// which is not counted.
struct Method {
  const char* name;
  const char* yaml;  // algorithm
  int accumulation, steps;
};
constexpr int method_ranks = 4;
constexpr const char* method_link = "{latency: 5ms, bandwidth: 100Mbps}";
constexpr Method methods[]{
    {"ddp", "{name: ddp, bucket: 1MB, first_bucket: 1MB, optimizer: {lr: 1e-3}}", 4, 5},
    {"diloco", "{name: diloco, inner_steps: 4, inner: {optimizer: {lr: 1e-3}}}", 1, 9},
    {"streaming-diloco",
     "{name: streaming-diloco, inner_steps: 4, fragment_layers: 25, overlap: 1, codec: {name: "
     "fp32}, "
     "inner: {optimizer: {lr: 1e-3}}}",
     1, 9},
    {"streaming-diloco hidden",
     "{name: streaming-diloco, inner_steps: 4, fragment_layers: 25, overlap: 2, inner: {optimizer: "
     "{lr: 1e-3}}}",
     1, 9},
    {"acco", "{name: acco, optimizer: {lr: 1e-3}}", 1, 9}};

struct Case {
  std::string name;
  std::string scenario;          // file
  std::vector<std::string> set;  // fields of the scenario
  int steps = 0;                 // 0: as the options say
};

// A set of cases, and what is asked of them.
struct Grid {
  int ranks = 2;  // of the calibration
  double median_limit = 0.10, worst_limit = 0.20, resident_limit = 0.15;
  std::vector<Case> cases{};
};

struct Options {
  std::string grid = "plans", platform, stack = "cpu-world", only;
  int rounds = 3, steps = 6;
  bool form = false;
};

std::string folder() { return ORRERY_SOURCE_DIR "/tests/bench/twin/"; }

Case make_case(const Size& size, const Plan& plan, const Link& link) {
  const std::string model = std::string(size.model) + "-" + size.name;
  // Each rank computes as much in every plan: the two stages of a pipeline share twice the samples.
  const int accumulation = plan.stages == 1 ? link.accumulation : 1;
  return {model + " " + plan.name + link.name,
          folder() + size.model + ".yaml",
          {"model=" + model + ".yaml",
           fmt::format("data.global_batch={}", size.samples * plan.ranks * accumulation),
           fmt::format("data.micro_batch={}", size.samples * plan.stages / micro_batches),
           fmt::format("parallel.pipeline={}", plan.stages),
           fmt::format("platform.gpus={}", plan.ranks),
           std::string("platform.throttle=") + link.throttle}};
}

Case make_case(const Size& size, const Method& method) {
  const std::string model = std::string(size.model) + "-" + size.name;
  return {model + " " + method.name,
          folder() + size.model + ".yaml",
          {"model=" + model + ".yaml",
           fmt::format("data.global_batch={}", size.samples * method_ranks * method.accumulation),
           fmt::format("data.micro_batch={}", size.samples / micro_batches),
           fmt::format("platform.gpus={}", method_ranks), std::string("algorithm=") + method.yaml,
           std::string("platform.throttle=") + method_link},
          method.steps};
}

std::vector<Case> plan_cases(const Options& options) {
  std::vector<Case> all;
  for (const Size& size : sizes)
    for (const Plan& plan : plans)
      for (const Link& link : links) {
        if (plan.ranks == 1 && *link.name != '\0') continue;
        const Case one = make_case(size, plan, link);
        if (one.name.find(options.only) != std::string::npos) all.push_back(one);
      }
  return all;
}

std::vector<Case> method_cases(const Options& options) {
  std::vector<Case> all;
  for (const Size& size : {sizes[0], sizes[3]})
    for (const Method& method : methods) {
      const Case one = make_case(size, method);
      if (one.name.find(options.only) != std::string::npos) all.push_back(one);
    }
  return all;
}

Grid grid_of(const Options& options) {
  Grid grid;
  if (options.form) {
    grid.cases = {make_case({"mlp", "small", 8}, plans[1], links[1])};
    grid.cases.front().name = "form";
  } else if (options.grid == "plans") {
    grid.cases = plan_cases(options);
  } else if (options.grid == "low-communication") {
    constexpr double any = std::numeric_limits<double>::infinity();
    grid = {method_ranks, 0.15, any, any, method_cases(options)};  // peaks are not at one time
  } else {
    throw std::invalid_argument("--grid takes plans or low-communication");
  }
  if (grid.cases.empty())
    throw std::invalid_argument("no case has '" + options.only + "' in its name");
  return grid;
}

Json validate(const Case& one, const std::string& platform, const Options& options) {
  const int steps = one.steps > 0 ? one.steps : options.steps;
  std::vector<std::string> arguments{"validate",  one.scenario,
                                     "--json",    "--quiet",
                                     "--repeats", "1",
                                     "--set",     "platform.cluster=" + platform,
                                     "--set",     "platform.stack=" + options.stack,
                                     "--set",     fmt::format("run.steps={}", steps)};
  for (const std::string& setting : one.set) arguments.insert(arguments.end(), {"--set", setting});
  return Json::parse(run_orrery(arguments));
}

// What the rounds of a case tell together.
Json line_of(const Case& one, const std::vector<Json>& rounds) {
  std::vector<double> errors, steps, forecasts, shares;
  Json resident;  // what the process grew by beside the ledger, where it is furthest off
  double memory = 0;
  int bands = 0, inside = 0;
  for (const Json& v : rounds) {
    const Json &simulated = v["simulated"], &measured = v["measured"];
    const double step = measured["step_time_s"];
    errors.push_back(v["difference"]["step"]);
    steps.push_back(step);
    forecasts.push_back(simulated["step_time_s"]);
    shares.push_back(measured["time"]["compute_s"].get<double>() / step);
    memory = std::max(memory, std::abs(v["difference"]["memory"].get<double>()));
    const Json& off = v["resident"]["difference"];
    if (off.is_number() &&
        (resident.is_null() || std::abs(off.get<double>()) > std::abs(resident.get<double>())))
      resident = off;
    const Json &low = simulated["step_time_low_s"], &high = simulated["step_time_high_s"];
    if (!low.is_number() || !high.is_number()) continue;
    ++bands;
    inside += low.get<double>() <= step && step <= high.get<double>() ? 1 : 0;
  }
  const auto [least, most] = std::minmax_element(steps.begin(), steps.end());
  const double spread = (*most - *least) / median(steps);
  return {{"case", one.name},
          {"simulated", median(forecasts)},
          {"measured", median(steps)},
          {"error", median(errors)},
          {"compute_share", *std::min_element(shares.begin(), shares.end())},
          {"bands", bands},
          {"inside", inside},
          {"spread", spread},
          {"memory", memory},
          {"resident", resident}};
}

Json summary_of(const std::vector<Json>& lines, const Grid& grid) {
  std::vector<double> errors;
  double share = 1, resident = 0;
  int bands = 0, inside = 0;
  bool memory = true;
  for (const Json& line : lines) {
    errors.push_back(std::abs(line["error"].get<double>()));
    share = std::min(share, line["compute_share"].get<double>());
    memory = memory && line["memory"] == 0.0;
    if (line["resident"].is_number())
      resident = std::max(resident, std::abs(line["resident"].get<double>()));
    bands += line["bands"].get<int>();
    inside += line["inside"].get<int>();
  }
  const double middle = median(errors), worst = *std::max_element(errors.begin(), errors.end());
  return {
      {"case", "summary"},
      {"cases", lines.size()},
      {"median_error", middle},
      {"worst_error", worst},
      {"least_compute_share", share},
      {"band_coverage", bands > 0 ? Json(static_cast<double>(inside) / bands) : Json()},
      {"memory_exact", memory},
      {"worst_resident", resident},
      {"passed", middle <= grid.median_limit && worst <= grid.worst_limit &&
                     share >= least_compute_share && memory && resident <= grid.resident_limit}};
}

Options options_of(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--form") {
      options.form = true;
      options.rounds = 1;
      options.steps = 2;
      options.platform = "this-cpu";
      continue;
    }
    if (i + 1 == argc) throw std::invalid_argument(name + " needs a value");
    const std::string value = argv[++i];
    if (name == "--platform")
      options.platform = value;
    else if (name == "--grid")
      options.grid = value;
    else if (name == "--stack")
      options.stack = value;
    else if (name == "--only")
      options.only = value;
    else if (name == "--rounds")
      options.rounds = std::stoi(value);
    else if (name == "--steps")
      options.steps = std::stoi(value);
    else
      throw std::invalid_argument("unknown option " + name);
  }
  return options;
}

int run(const Options& options) {
  const Grid grid = grid_of(options);
  const std::vector<Case>& cases = grid.cases;
  if (options.rounds < 1) throw std::invalid_argument("--rounds takes a number from 1");
  std::vector<std::vector<Json>> rounds(cases.size());
  for (int round = 1; round <= options.rounds; ++round) {
    const std::string platform =
        options.platform.empty() ? calibrated("twin", round, grid.ranks) : options.platform;
    for (std::size_t i = 0; i < cases.size(); ++i) {
      std::fprintf(stderr, "round %d of %d: %s\n", round, options.rounds, cases[i].name.c_str());
      rounds[i].push_back(validate(cases[i], platform, options));
    }
  }
  std::vector<Json> lines;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    lines.push_back(line_of(cases[i], rounds[i]));
    fmt::print("{}\n", lines.back().dump());
  }
  const Json summary = summary_of(lines, grid);
  fmt::print("{}\n", summary.dump());
  return options.form || summary["passed"].get<bool>() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(options_of(argc, argv));
  } catch (const std::invalid_argument& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
