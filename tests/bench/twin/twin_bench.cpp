// The twin: is this machine's own simulation right? Runs and simulates a set of small trainings
// (`orrery validate`), with a platform that `orrery calibrate` measured here, and prints a JSON
// object per case and a summary.
//
//   bench_twin [--platform FILE [--stack NAME]] [--only TEXT] [--repeats N] [--steps N] [--form]
//
// --platform: instead of calibrating. --only: cases with this in their name. --form: one tiny case
// that shows the form, without a verdict.
//
// Exit 1 when over the set the median absolute error of the step time is above 10 %, the worst
// above 20 %, a step computes for less than 30 % of its time, or a memory peak is not exact.
#include <fmt/core.h>
#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Json = nlohmann::ordered_json;

constexpr double median_limit = 0.10, worst_limit = 0.20, least_compute_share = 0.30;
constexpr int micro_batches = 4;  // per replica and step

// Samples that one rank computes per step, so that it takes 20 to 200 ms on one core.
struct Size {
  const char* model;
  const char* name;
  int samples;
};
constexpr Size sizes[]{{"gpt", "small", 16},  {"gpt", "medium", 12},   {"gpt", "large", 12},
                       {"mlp", "small", 768}, {"mlp", "medium", 1024}, {"mlp", "large", 1024}};

struct Plan {
  const char* name;
  int ranks, stages;
};
constexpr Plan plans[]{{"1 rank", 1, 1}, {"ddp", 2, 1}, {"1f1b", 2, 2}};

struct Link {
  const char* name;      // "" for this machine's memory
  const char* throttle;  // platform.throttle
};
constexpr Link links[]{{"", "null"},
                       {" 1 Gbit/s", "{latency: 1ms, bandwidth: 1Gbps}"},
                       {" 100 Mbit/s", "{latency: 1ms, bandwidth: 100Mbps}"}};

struct Case {
  std::string name;
  std::string scenario;          // file
  std::vector<std::string> set;  // fields of the scenario
};

struct Options {
  std::string platform, stack = "cpu-world", only;
  int repeats = 3, steps = 6;
  bool form = false;
};

std::string folder() { return ORRERY_SOURCE_DIR "/tests/bench/twin/"; }

Case make_case(const Size& size, const Plan& plan, const Link& link) {
  const std::string model = std::string(size.model) + "-" + size.name;
  // Each rank computes as much in every plan: the two stages of a pipeline share twice the samples.
  return {
      model + " " + plan.name + link.name,
      folder() + size.model + ".yaml",
      {"model=" + model + ".yaml", fmt::format("data.global_batch={}", size.samples * plan.ranks),
       fmt::format("data.micro_batch={}", size.samples * plan.stages / micro_batches),
       fmt::format("parallel.pipeline={}", plan.stages),
       fmt::format("platform.gpus={}", plan.ranks),
       std::string("platform.throttle=") + link.throttle}};
}

std::vector<Case> cases_of(const Options& options) {
  if (options.form) {
    Case tiny = make_case({"mlp", "small", 8}, plans[1], links[1]);
    tiny.name = "form";
    return {tiny};
  }
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

std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

// Runs orrery; its stdout. Throws when it fails.
std::string orrery(const std::vector<std::string>& arguments) {
  std::string command = quoted(ORRERY_PROGRAM);
  for (const std::string& argument : arguments) command += " " + quoted(argument);
  std::FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("cannot run " + command);
  std::string text;
  char buffer[65536];
  for (std::size_t n = 0; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;)
    text.append(buffer, n);
  const int status = pclose(pipe);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    throw std::runtime_error("failed: " + command);
  return text;
}

// The platform file of this machine, measured now.
std::string calibrated() {
  const std::filesystem::path results = ORRERY_SOURCE_DIR "/results/bench";
  std::filesystem::create_directories(results);
  const std::string file = (results / "twin-platform.yaml").string();
  std::fprintf(stderr, "calibrating (minutes): %s\n", file.c_str());
  orrery({"calibrate", "--world", "cpu", "--ranks", "2", "--out", file});
  return file;
}

Json validate(const Case& one, const Options& options) {
  std::vector<std::string> arguments{"validate", one.scenario, "--json",
                                     "--quiet",  "--repeats",  std::to_string(options.repeats)};
  std::vector<std::string> settings = one.set;
  settings.insert(settings.end(),
                  {"platform.cluster=" + options.platform, "platform.stack=" + options.stack,
                   fmt::format("run.steps={}", options.steps)});
  for (const std::string& setting : settings) arguments.insert(arguments.end(), {"--set", setting});
  return Json::parse(orrery(arguments));
}

// The line of a case.
Json line_of(const Case& one, const Json& v) {
  const Json &simulated = v["simulated"], &measured = v["measured"];
  const double step = measured["step_time_s"];
  const Json &low = simulated["step_time_low_s"], &high = simulated["step_time_high_s"];
  const bool band = low.is_number() && high.is_number();
  const Json& spread = v["repeats"]["spread"]["step"];
  return {{"case", one.name},
          {"simulated", simulated["step_time_s"]},
          {"measured", step},
          {"error", v["difference"]["step"]},
          {"compute_share", measured["time"]["compute_s"].get<double>() / step},
          {"low", low},
          {"high", high},
          {"inside", band ? Json(low.get<double>() <= step && step <= high.get<double>()) : Json()},
          {"spread", (spread["high"].get<double>() - spread["low"].get<double>()) / step},
          {"memory", v["difference"]["memory"]},
          {"resident", v["resident"]["difference"]}};
}

Json summary_of(const std::vector<Json>& lines) {
  std::vector<double> errors;
  double share = 1;
  int bands = 0, inside = 0;
  bool memory = true;
  for (const Json& line : lines) {
    errors.push_back(std::abs(line["error"].get<double>()));
    share = std::min(share, line["compute_share"].get<double>());
    memory = memory && line["memory"] == 0.0;
    if (line["inside"].is_null()) continue;
    ++bands;
    inside += line["inside"].get<bool>() ? 1 : 0;
  }
  std::sort(errors.begin(), errors.end());
  const double median = (errors[(errors.size() - 1) / 2] + errors[errors.size() / 2]) / 2;
  return {{"case", "summary"},
          {"cases", lines.size()},
          {"median_error", median},
          {"worst_error", errors.back()},
          {"least_compute_share", share},
          {"band_coverage", bands > 0 ? Json(static_cast<double>(inside) / bands) : Json()},
          {"memory_exact", memory},
          {"passed", median <= median_limit && errors.back() <= worst_limit &&
                         share >= least_compute_share && memory}};
}

Options options_of(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--form") {
      options.form = true;
      options.repeats = 1;
      options.steps = 2;
      options.platform = "this-cpu";
      continue;
    }
    if (i + 1 == argc) throw std::invalid_argument(name + " needs a value");
    const std::string value = argv[++i];
    if (name == "--platform")
      options.platform = value;
    else if (name == "--stack")
      options.stack = value;
    else if (name == "--only")
      options.only = value;
    else if (name == "--repeats")
      options.repeats = std::stoi(value);
    else if (name == "--steps")
      options.steps = std::stoi(value);
    else
      throw std::invalid_argument("unknown option " + name);
  }
  return options;
}

int run(Options options) {
  const std::vector<Case> cases = cases_of(options);
  if (cases.empty()) throw std::invalid_argument("no case has '" + options.only + "' in its name");
  if (options.platform.empty()) options.platform = calibrated();
  std::vector<Json> lines;
  for (const Case& one : cases) {
    lines.push_back(line_of(one, validate(one, options)));
    fmt::print("{}\n", lines.back().dump());
    std::fflush(stdout);
  }
  const Json summary = summary_of(lines);
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
