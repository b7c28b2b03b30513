// `orrery simulate` and `orrery trace`.
#include <fmt/core.h>

#include <filesystem>

#include "backend/core/table.hpp"
#include "scenarios/cli/command.hpp"
#include "scenarios/cli/files.hpp"
#include "scenarios/cli/simulation.hpp"
#include "scenarios/cli/stage_memory.hpp"

namespace orrery::cli {

namespace {

// A simulation, or what would fit where this does not.
Outcome simulate_or_advise(const Scenario& scenario, const Arguments& arguments,
                           const std::string& trace_path) {
  try {
    return simulate_scenario(scenario, arguments, trace_path);
  } catch (Error& error) {
    if (error.category() != Category::out_of_memory) throw;
    for (const NearestFit& fit : nearest_fits(arguments, scenario))
      error.with("fits with", fit.change + ", " + format_bytes(fit.peak) + " at the peak");
    throw;
  }
}

}  // namespace

int simulate(const Arguments& arguments) {
  if (arguments.trace && arguments.out.empty())
    throw Error(Category::usage, "--trace needs --out, the folder to write to");
  const Scenario scenario = read_scenario(arguments);
  if (!arguments.out.empty()) make_result_folder(arguments.out);
  const std::string path =
      arguments.trace ? (std::filesystem::path(arguments.out) / "trace.json.gz").string() : "";
  deliver(simulate_or_advise(scenario, arguments, path), scenario, arguments);
  return 0;
}

int trace(const Arguments& arguments) {
  const Scenario scenario = read_scenario(arguments);
  const std::string folder = arguments.out.empty() ? "." : arguments.out;
  const std::string path = (std::filesystem::path(folder) / "trace.json.gz").string();
  const Outcome outcome = simulate_or_advise(scenario, arguments, path);
  if (arguments.json)
    deliver(outcome, scenario, arguments);
  else
    fmt::print("{}\n", path);
  return 0;
}

}  // namespace orrery::cli
