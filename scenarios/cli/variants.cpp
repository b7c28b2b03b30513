#include "scenarios/cli/variants.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <functional>
#include <iostream>
#include <set>
#include <string>

#include "backend/core/progress.hpp"
#include "platforms/cluster.hpp"
#include "scenarios/cli/children.hpp"
#include "scenarios/cli/simulation.hpp"

namespace orrery::cli {

namespace {

// For its step time alone: no values, no files, no band, and no variants of its own.
Scenario bare(const Scenario& scenario) {
  Scenario s = scenario;
  s.machines = at_band_end(scenario.machines, 0);
  s.run.values = RunValues::virtual_values;
  s.run.record.reset();
  s.run.replicas = 1;
  s.run.explain_bottleneck = false;
  return s;
}

std::vector<double> steps_of(const std::vector<Scenario>& scenarios, const Arguments& arguments,
                             const char* what) {
  std::vector<Work> work;
  for (const Scenario& scenario : scenarios)
    work.push_back([&scenario] {
      Arguments quiet;
      quiet.quiet = true;
      return fmt::format("{:.17g}", simulate_scenario(scenario, quiet, "").result.step_time_s);
    });
  ProgressLine line(std::cerr, stderr_progress(arguments.quiet));
  std::vector<double> steps(work.size());
  std::size_t done = 0;
  run_in_children(work, usable_cores(), [&](std::size_t index, const ChildResult& result) {
    if (!result.error.empty()) throw Error(result.category, result.error).with("while", what);
    steps[index] = std::stod(result.text);
    ++done;
    line.update([&] { return fmt::format("{} {} of {}", what, done, work.size()); });
  });
  line.clear();
  return steps;
}

void times(std::optional<Sourced<FlopsPerSecond>>& peak, double factor) {
  if (peak) peak->value = peak->value * factor;
}

void double_peaks(Scenario& s) {
  for (Platform::Part& part : s.machines.parts) {
    PeakSpec& p = part.gpu.compute.peak;
    for (auto* peak : {&p.fp64, &p.fp32, &p.tf32, &p.bf16, &p.fp16, &p.fp8, &p.fp4})
      times(*peak, 2);
  }
}

void double_memory(Scenario& s) {
  for (Platform::Part& part : s.machines.parts)
    part.gpu.memory.bandwidth.value = part.gpu.memory.bandwidth.value * 2;
}

void free_launches(Scenario& s) {
  HostSpec& host = s.machines.stack.host;
  host.launch.value = host.communicate.value = host.wait.value = Seconds(0);
  for (Platform::Part& part : s.machines.parts) part.gpu.compute.gemm.launch.value = Seconds(0);
}

std::vector<double> replica_steps(const Scenario& scenario, const Arguments& arguments) {
  std::vector<Scenario> others;
  const std::uint64_t first = scenario.conditions_seed();
  for (std::int64_t i = 1; i < scenario.run.replicas; ++i) {
    others.push_back(bare(scenario));
    others.back().cluster_conditions.seed = first + static_cast<std::uint64_t>(i);
  }
  if (others.empty()) return {};
  return steps_of(others, arguments, "replica");
}

std::vector<BottleneckRow> limits_of(const Scenario& scenario, const Arguments& arguments) {
  if (!scenario.run.explain_bottleneck) return {};
  std::vector<BottleneckRow> rows;
  std::vector<Scenario> variants;
  const auto add = [&](const std::string& resource, const char* change,
                       const std::function<void(Scenario&)>& make) {
    rows.push_back({resource, change, 0});
    variants.push_back(bare(scenario));
    make(variants.back());
  };
  const auto measured = [](const Platform::Part& part) { return !part.gpu.measured.empty(); };
  const auto& parts = scenario.machines.parts;
  if (std::any_of(parts.begin(), parts.end(), measured)) {
    // Its kernels are read from tables, which do not say what bounds them.
    add("kernels", "doubled", [](Scenario& s) {
      SlowGpusSpec all{{}, 2};
      for (int g = 0; g < s.gpus(); ++g) all.gpus.push_back(g);
      s.cluster_conditions.gpu_speed.slow.push_back(std::move(all));
    });
  } else {
    add("arithmetic", "doubled", double_peaks);
    add("memory bandwidth", "doubled", double_memory);
  }
  add("launches", "free", free_launches);
  std::set<LinkTier> tiers;
  const Cluster cluster(scenario.machines, scenario.gpus());
  for (const LinkSpec& link : cluster.links()) tiers.insert(link.tier);
  for (const LinkTier tier : tiers)
    for (const auto& [change, factor] : {std::pair{"doubled", 2.0}, {"free", 1e6}})
      add(std::string(name(tier)) + " links", change, [tier = tier, factor = factor](Scenario& s) {
        s.cluster_conditions.links.push_back({name(tier), factor});
      });
  const std::vector<double> steps = steps_of(variants, arguments, "explaining: variant");
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i].step_time_s = steps[i];
  return rows;
}

}  // namespace

Outcome simulate_with_variants(const Scenario& scenario, const Arguments& arguments,
                               const std::string& trace_path) {
  std::vector<double> replicas = replica_steps(scenario, arguments);
  std::vector<BottleneckRow> limits = limits_of(scenario, arguments);
  Outcome outcome = simulate_scenario(scenario, arguments, trace_path);
  outcome.result.add_replicas(std::move(replicas));
  outcome.result.add_limits(std::move(limits));
  return outcome;
}

void refuse_simulated(const Scenario& scenario) {
  refuse_variants(scenario);
  if (!scenario.cluster_conditions.perfect())
    throw Error(Category::usage,
                "cluster_conditions are simulated; a run on this machine takes it as it is");
}

void refuse_variants(const Scenario& scenario) {
  for (const auto& [key, asked] : {std::pair{"run.replicas", scenario.run.replicas > 1},
                                   {"run.explain_bottleneck", scenario.run.explain_bottleneck}})
    if (asked)
      throw Error(Category::usage,
                  fmt::format("{} is for `orrery simulate` and `orrery sweep`", key));
}

}  // namespace orrery::cli
