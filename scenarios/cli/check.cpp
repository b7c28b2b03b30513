// `orrery check` and `orrery schema`.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "backend/core/table.hpp"
#include "scenarios/cli/command.hpp"
#include "scenarios/cli/simulation.hpp"

namespace orrery::cli {

int check(const Arguments& arguments) {
  const Scenario scenario = read_scenario(arguments);
  if (arguments.json) {
    nlohmann::ordered_json j{
        {"schema", "orrery.check/1"},        {"scenario", scenario.file},
        {"model", scenario.model_spec.name}, {"parameters", scenario.model_spec.parameters()},
        {"gpus", scenario.gpus()},           {"warnings", scenario.warnings}};
    fmt::print("{}\n", j.dump(2));
    return 0;
  }
  fmt::print("{} is valid: {} with {} parameters, {} on {} GPUs of {}\n", scenario.file,
             scenario.model_spec.name, format_thousands(scenario.model_spec.parameters()),
             scenario.algorithm.name, scenario.gpus(), scenario.platform.cluster);
  if (!arguments.quiet)
    for (const std::string& warning : scenario.warnings)
      fmt::print(stderr, "warning: {}\n", warning);
  return 0;
}

int schema(const Arguments&) {
  fmt::print("{}", scenario_schema());
  return 0;
}

}  // namespace orrery::cli
