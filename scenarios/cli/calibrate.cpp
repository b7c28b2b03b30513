// `orrery calibrate`: measures this machine and writes a platform file.
#include "calibration/calibrate.hpp"

#include <fmt/core.h>

#include <charconv>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "backend/core/progress.hpp"
#include "backend/core/table.hpp"
#include "backend/core/text.hpp"
#include "calibration/platform_file.hpp"
#include "scenarios/cli/command.hpp"
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

// What makes the same calibration again.
std::string command_of(const Arguments& arguments, int ranks) {
  return fmt::format("orrery calibrate --world cpu --ranks {}{} --out {}", ranks,
                     arguments.quick ? " --quick" : "",
                     std::filesystem::path(arguments.out).filename().string());
}

std::string errors_json(const Calibration& calibration, const std::string& file) {
  using Json = nlohmann::ordered_json;
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
  return j.dump(2) + "\n";
}

std::string errors_table(const Calibration& calibration) {
  TextTable table;
  table.left("class").column("points").column("held back").column("mean |error|").column("max");
  table.column("bias").column("spread");
  for (const auto& [name, e] : calibration.classes) {
    const auto known = [&e = e](const std::string& text) { return e.held_back > 0 ? text : "-"; };
    table.row({name, std::to_string(e.points), std::to_string(e.held_back),
               known(format_percent(e.mean_abs)), known(format_percent(e.max_abs)),
               known(format_signed_percent(e.bias)), format_percent(e.spread)});
  }
  return table.text();
}

}  // namespace

int calibrate(const Arguments& arguments) {
  if (arguments.world == "cuda")
    throw Error(Category::unavailable, "calibrate measures the processor only, not yet GPUs");
  if (arguments.world != "cpu")
    throw Error(Category::usage, "--world takes cpu, not '" + arguments.world + "'");
  if (arguments.out.empty())
    throw Error(Category::usage, "calibrate needs --out, the platform file to write");
  const std::filesystem::path file(arguments.out);
  if (file.extension() != ".yaml")
    throw Error(Category::usage,
                "--out takes a file that ends in .yaml, not '" + arguments.out + "'");
  make_result_folder(std::filesystem::absolute(file).parent_path().string());
  const MachineFacts machine = machine_facts();
  CalibrationOptions options;
  options.ranks = arguments.ranks.empty() ? 2 : ranks_of(arguments.ranks);
  options.quick = arguments.quick;
  options.name = file.stem().string();
  ProgressLine line(std::cerr, stderr_progress(arguments.quiet));
  options.progress = [&line](const std::string& what, double share) {
    line.update([&] { return fmt::format("measuring {}: {}", what, format_percent(share)); });
  };
  const Calibration calibration = calibrate_cpu(options, machine);
  line.clear();
  Source source;
  source.kind = SourceKind::measured;
  source.date = machine.date;
  source.device = machine.processor;
  source.driver = machine.system;
  source.command = command_of(arguments, options.ranks);
  const InterruptGuard guard;
  write_file_atomically(arguments.out, to_text(calibration.platform, source));
  if (arguments.json)
    fmt::print("{}", errors_json(calibration, arguments.out));
  else
    fmt::print("{}\n{}: use it with --set platform.cluster={}\n", errors_table(calibration),
               arguments.out, arguments.out);
  if (std::fflush(stdout) == 0) result_was_printed();
  return 0;
}

}  // namespace orrery::cli
