// Does the simulation of this machine pair workers as often as they meet in fact? Four workers on a
// ring under A2CiD2, over throttled links, run and simulated (`orrery validate`) on a platform that
// `orrery calibrate` measured here in the same run; prints a JSON object per case and a summary.
//
//   bench_rates [--platform FILE] [--rounds N] [--steps N] [--form]
//
// A round is a calibration and a run of every case. A case's error is the median over the rounds of
// predicted / measured - 1, of gradients and of averagings per second and worker.
//
// --platform: instead of calibrating. --form: one tiny case that shows the form, without a verdict.
//
// Exit 1 when the median absolute error over cases and both rates is above 15 %.
#include <fmt/core.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/bench/twin/measuring.hpp"

namespace {

using Json = nlohmann::ordered_json;
using namespace orrery::bench;

constexpr double median_limit = 0.15;
constexpr int workers = 4;

// A gradient takes this machine about as long as an exchange over the slowest of them.
struct Link {
  const char* name;
  const char* throttle;
};
constexpr Link links[]{{"100 ms", "{latency: 100ms, bandwidth: 1Gbps}"},
                       {"20 ms", "{latency: 20ms, bandwidth: 1Gbps}"},
                       {"100 Mbit/s", "{latency: 5ms, bandwidth: 100Mbps}"}};

struct Options {
  std::string platform;
  int rounds = 3, steps = 40, samples = 768;
  bool form = false;
};

Json validate(const Link& link, const std::string& platform, const Options& options) {
  std::vector<std::string> arguments{"validate",  ORRERY_SOURCE_DIR "/tests/bench/twin/mlp.yaml",
                                     "--json",    "--quiet",
                                     "--repeats", "1"};
  for (const std::string& setting :
       {"platform.cluster=" + platform, std::string("platform.stack=cpu-world"),
        fmt::format("platform.gpus={}", workers),
        fmt::format("platform.throttle={}", link.throttle),
        fmt::format("run.steps={}", options.steps),
        fmt::format("data.global_batch={}", options.samples * workers),
        fmt::format("data.micro_batch={}", options.samples / 4),
        std::string(
            "algorithm={name: a2cid2, graph: ring, optimizer: {name: momentum, lr: 0.01}}")})
    arguments.insert(arguments.end(), {"--set", setting});
  return Json::parse(run_orrery(arguments));
}

struct Rates {
  double gradients = 0, averagings = 0;  // per second and worker
};

Rates rates_of(const Json& result) {
  const double step = result["step_time_s"];
  double calls = 0;
  for (const Json& row : result["communication"])
    if (row["operation"] == "exchange") calls += row["calls"].get<double>();
  return {1 / step, calls / step};
}

struct Errors {
  std::vector<double> gradients, averagings;  // by round
  Rates measured;                             // of the last
};

int run(const Options& options) {
  std::vector<Errors> errors(options.form ? 1 : std::size(links));
  for (int round = 1; round <= options.rounds; ++round) {
    const std::string platform =
        options.platform.empty() ? calibrated("rates", round, workers) : options.platform;
    for (std::size_t i = 0; i < errors.size(); ++i) {
      std::fprintf(stderr, "round %d of %d: %s\n", round, options.rounds, links[i].name);
      const Json v = validate(links[i], platform, options);
      const Rates simulated = rates_of(v["simulated"]), measured = rates_of(v["measured"]);
      errors[i].gradients.push_back(simulated.gradients / measured.gradients - 1);
      errors[i].averagings.push_back(simulated.averagings / measured.averagings - 1);
      errors[i].measured = measured;
    }
  }
  std::vector<double> all;
  for (std::size_t i = 0; i < errors.size(); ++i) {
    const double gradients = median(errors[i].gradients), averagings = median(errors[i].averagings);
    all.insert(all.end(), {std::fabs(gradients), std::fabs(averagings)});
    const Json line{{"case", std::string("a2cid2 ") + links[i].name},
                    {"gradients_per_s", errors[i].measured.gradients},
                    {"averagings_per_s", errors[i].measured.averagings},
                    {"gradients_error", gradients},
                    {"averagings_error", averagings}};
    fmt::print("{}\n", line.dump());
  }
  const bool passed = median(all) <= median_limit;
  fmt::print("{}\n", Json{{"case", "summary"},
                          {"cases", errors.size()},
                          {"median_error", median(all)},
                          {"worst_error", *std::max_element(all.begin(), all.end())},
                          {"passed", passed}}
                         .dump());
  return options.form || passed ? 0 : 1;
}

Options options_of(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--form") {
      options = {"this-cpu", 1, 3, 8, true};
      continue;
    }
    if (i + 1 == argc) throw std::invalid_argument(name + " needs a value");
    const std::string value = argv[++i];
    if (name == "--platform")
      options.platform = value;
    else if (name == "--rounds")
      options.rounds = std::stoi(value);
    else if (name == "--steps")
      options.steps = std::stoi(value);
    else
      throw std::invalid_argument("unknown option " + name);
  }
  if (options.rounds < 1) throw std::invalid_argument("--rounds takes a number from 1");
  return options;
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
