// `orrery simulate` and `orrery trace`.
#include <fmt/core.h>

#include <filesystem>

#include "scenarios/cli/command.hpp"
#include "scenarios/cli/files.hpp"
#include "scenarios/cli/simulation.hpp"
#include "scenarios/cli/variants.hpp"

namespace orrery::cli {

int simulate(const Arguments& arguments) {
  if (arguments.trace && arguments.out.empty())
    throw Error(Category::usage, "--trace needs --out, the folder to write to");
  const Scenario scenario = read_scenario(arguments);
  if (!arguments.out.empty()) make_result_folder(arguments.out);
  const std::string path =
      arguments.trace ? (std::filesystem::path(arguments.out) / "trace.json.gz").string() : "";
  deliver(simulate_with_variants(scenario, arguments, path), scenario, arguments);
  return 0;
}

int trace(const Arguments& arguments) {
  const Scenario scenario = read_scenario(arguments);
  refuse_variants(scenario);
  const std::string folder = arguments.out.empty() ? "." : arguments.out;
  const std::string path = (std::filesystem::path(folder) / "trace.json.gz").string();
  const Outcome outcome = simulate_scenario(scenario, arguments, path);
  if (arguments.json)
    deliver(outcome, scenario, arguments);
  else
    fmt::print("{}\n", path);
  return 0;
}

}  // namespace orrery::cli
