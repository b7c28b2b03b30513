// `orrery simulate` and `orrery trace`.
#include <fmt/core.h>

#include <filesystem>

#include "backend/core/table.hpp"
#include "scenarios/cli/command.hpp"
#include "scenarios/cli/files.hpp"
#include "scenarios/cli/simulation.hpp"
#include "scenarios/cli/stage_memory.hpp"
#include "scenarios/cli/variants.hpp"

namespace orrery::cli {

namespace {

// Adds to an error of memory what would fit, and throws all others as they are.
template <class Simulate>
Outcome or_what_fits(const Scenario& scenario, const Arguments& arguments, Simulate simulate) {
  try {
    return simulate();
  } catch (Error& error) {
    if (error.category() != Category::out_of_memory) throw;
    for (const NearestFit& fit : nearest_fits(arguments, scenario))
      error.with("fits with", fit.change + ", " + format_bytes(fit.peak) + " at the peak");
    throw;
  }
}

}  // namespace

int simulate(const Arguments& arguments) {
  const std::string path = trace_path(arguments);
  const Scenario scenario = read_scenario(arguments);
  if (!arguments.out.empty()) make_result_folder(arguments.out);
  const auto all = [&] { return simulate_with_variants(scenario, arguments, path); };
  deliver(or_what_fits(scenario, arguments, all), scenario, arguments);
  return 0;
}

int trace(const Arguments& arguments) {
  const Scenario scenario = read_scenario(arguments);
  refuse_variants(scenario);
  const std::string folder = arguments.out.empty() ? "." : arguments.out;
  const std::string path = (std::filesystem::path(folder) / "trace.json.gz").string();
  const Outcome outcome = or_what_fits(
      scenario, arguments, [&] { return simulate_scenario(scenario, arguments, path); });
  if (arguments.json)
    deliver(outcome, scenario, arguments);
  else
    fmt::print("{}\n", path);
  return 0;
}

}  // namespace orrery::cli
