// `orrery calibrate`: measures this machine and writes a platform file.
#include "calibration/calibrate.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

#include "backend/core/progress.hpp"
#include "backend/core/table.hpp"
#include "backend/core/text.hpp"
#include "calibration/platform_file.hpp"
#include "scenarios/cli/command.hpp"
#include "scenarios/cli/cuda_world.hpp"
#include "scenarios/cli/files.hpp"
#include "scenarios/cli/interrupt.hpp"

namespace orrery::cli {

namespace {

int ranks_of(const std::string& text) {
  int ranks = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), ranks);
  if (error != std::errc() || end != text.data() + text.size() || ranks < 1 || ranks > 64)
    throw Error(Category::usage, "--ranks takes a number from 1 to 64, not '" + text + "'");
  return ranks;
}

double budget_of(const std::string& text) {
  double seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc() || end != text.data() + text.size() || !(seconds > 0 && seconds <= 1e6))
    throw Error(Category::usage, "--budget takes seconds, such as 150, not '" + text + "'");
  return seconds;
}

// Calibrates the world that the arguments name.
struct Calibrated {
  Calibration calibration;
  std::optional<GpuCalibration> gpus;
  Source source;
};

Source source_of(const Arguments& arguments, const std::string& ranks, const std::string& date,
                 const std::string& device, const std::string& driver) {
  Source source;
  source.kind = SourceKind::measured;
  source.date = date;
  source.device = device;
  source.driver = driver;
  const std::string budget = arguments.budget.empty() ? "" : " --budget " + arguments.budget;
  source.command = fmt::format("orrery calibrate --world {}{}{}{} --out {}", arguments.world, ranks,
                               arguments.quick ? " --quick" : "", budget,
                               std::filesystem::path(arguments.out).filename().string());
  return source;
}

using Progress = std::function<void(const std::string& what, double share)>;

Calibrated measure_processor(const Arguments& arguments, const std::string& name,
                             const Progress& progress) {
  const MachineFacts machine = machine_facts();
  CalibrationOptions options;
  options.ranks = arguments.ranks.empty() ? 2 : ranks_of(arguments.ranks);
  options.quick = arguments.quick;
  if (!arguments.budget.empty()) options.budget_s = budget_of(arguments.budget);
  options.name = name;
  options.progress = progress;
  return {calibrate_cpu(options, machine), std::nullopt,
          source_of(arguments, fmt::format(" --ranks {}", options.ranks), machine.date,
                    machine.processor, machine.system)};
}

Calibrated measure_gpus(const Arguments& arguments, const std::string& name,
                        const Progress& progress) {
  GpuFacts facts = gpu_facts_here();
  facts.date = machine_facts().date;
  if (!arguments.ranks.empty()) facts.gpus = std::min(facts.gpus, ranks_of(arguments.ranks));
  GpuCalibrationOptions options;
  options.quick = arguments.quick;
  if (!arguments.budget.empty()) options.budget_s = budget_of(arguments.budget);
  options.name = name;
  options.progress = progress;
  const auto world_of = [](int ranks, bool graphs) {
    WorldOptions world;
    world.grid.set(Axis::replicate, ranks);
    world.real_values = true;
    CudaProfile profile;
    profile.graphs = graphs;
    return make_cuda_world_here(std::move(world), {}, profile);
  };
  options.world = [=](int ranks) { return world_of(ranks, false); };
  options.run = [=](int ranks, const World::Program& program) {
    return world_of(ranks, false)->run(program);
  };
  options.run_as_graphs = [=](int ranks, const World::Program& program) {
    return world_of(ranks, true)->run(program);
  };
  const GpuCalibration made = calibrate_gpus(options, facts);
  return {made, made,
          source_of(arguments, fmt::format(" --ranks {}", facts.gpus), facts.date, facts.device,
                    facts.driver)};
}

std::string errors_json(const Calibrated& calibrated, const std::string& file) {
  using Json = nlohmann::ordered_json;
  const Calibration& calibration = calibrated.calibration;
  Json j{{"schema", "orrery.calibration/1"},
         {"platform", calibration.platform.name},
         {"file", file},
         {"classes", Json::array()}};
  const auto known = [](const MeasuredErrorSpec& e, double value) {
    return e.held_back > 0 ? Json(value) : Json(nullptr);
  };
  for (const auto& [name, e] : calibration.classes)
    j["classes"].push_back({{"name", name},
                            {"points", e.points},
                            {"held_back", e.held_back},
                            {"mean_abs_error", known(e, e.mean_abs)},
                            {"max_abs_error", known(e, e.max_abs)},
                            {"bias", known(e, e.bias)},
                            {"p90_abs_error", known(e, e.p90)},
                            {"spread", e.spread}});
  if (!calibrated.gpus) return j.dump(2) + "\n";
  const GpuCalibration& gpus = *calibrated.gpus;
  for (const auto& [kernels, beside, slowdown] : gpus.interference)
    j["interference"].push_back({{"kernels", kernels}, {"beside", beside}, {"slowdown", slowdown}});
  j["least"] = {{"kernel_s", gpus.least_kernel.value}, {"operation_s", gpus.least_operation.value}};
  if (gpus.least_in_graph > Seconds(0))
    j["graph"] = {{"kernel_s", gpus.least_in_graph.value},
                  {"issue_16_kernels_s", gpus.issued.value},
                  {"issue_graph_of_16_s", gpus.issued_graph.value}};
  return j.dump(2) + "\n";
}

std::string errors_table(const Calibrated& calibrated) {
  TextTable table;
  table.left("class").column("points").column("held back").column("mean |error|").column("max");
  table.column("bias").column("spread");
  for (const auto& [name, e] : calibrated.calibration.classes) {
    const auto known = [&e = e](const std::string& text) { return e.held_back > 0 ? text : "-"; };
    table.row({name, std::to_string(e.points), std::to_string(e.held_back),
               known(format_percent(e.mean_abs)), known(format_percent(e.max_abs)),
               known(format_signed_percent(e.bias)), format_percent(e.spread)});
  }
  std::string text = table.text();
  if (!calibrated.gpus) return text;
  const GpuCalibration& gpus = *calibrated.gpus;
  for (const auto& [kernels, beside, slowdown] : gpus.interference)
    text += fmt::format("{} takes {:.3f} times as long beside a {}\n", kernels, slowdown, beside);
  text += fmt::format("a kernel of one element takes {}, as an operation of its own {}\n",
                      format_seconds(gpus.least_kernel), format_seconds(gpus.least_operation));
  if (gpus.least_in_graph > Seconds(0))
    text += fmt::format("in a graph {}; to issue 16 takes the host {}, as a graph {}\n",
                        format_seconds(gpus.least_in_graph), format_seconds(gpus.issued),
                        format_seconds(gpus.issued_graph));
  return text;
}

}  // namespace

int calibrate(const Arguments& arguments) {
  if (arguments.world != "cpu" && arguments.world != "cuda")
    throw Error(Category::usage, "--world takes cpu or cuda, not '" + arguments.world + "'");
  if (arguments.out.empty())
    throw Error(Category::usage, "calibrate needs --out, the platform file to write");
  const std::filesystem::path file(arguments.out);
  if (file.extension() != ".yaml")
    throw Error(Category::usage,
                "--out takes a file that ends in .yaml, not '" + arguments.out + "'");
  make_result_folder(std::filesystem::absolute(file).parent_path().string());
  ProgressLine line(std::cerr, stderr_progress(arguments.quiet));
  const auto progress = [&line](const std::string& what, double share) {
    line.update([&] { return fmt::format("measuring {}: {}", what, format_percent(share)); });
  };
  const bool gpus = arguments.world == "cuda";
  const Calibrated calibrated =
      (gpus ? measure_gpus : measure_processor)(arguments, file.stem().string(), progress);
  line.clear();
  const InterruptGuard guard;
  write_file_atomically(arguments.out, to_text(calibrated.calibration.platform, calibrated.source));
  if (arguments.json)
    fmt::print("{}", errors_json(calibrated, arguments.out));
  else
    fmt::print("{}\n{}: use it with --set platform.cluster={}\n", errors_table(calibrated),
               arguments.out, arguments.out);
  if (std::fflush(stdout) == 0) result_was_printed();
  return 0;
}

}  // namespace orrery::cli
