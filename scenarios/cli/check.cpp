// `orrery check`, `orrery schema`, `orrery doctor`.
#include <fmt/core.h>
#include <sys/resource.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "backend/core/table.hpp"
#include "scenarios/cli/command.hpp"
#include "scenarios/cli/simulation.hpp"
#include "scenarios/cli/version.hpp"
#include "sim/simgrid/engine.hpp"

namespace orrery::cli {

int check(const Arguments& arguments) {
  const Scenario scenario = read_scenario(arguments);
  if (arguments.json) {
    nlohmann::ordered_json j{{"schema", "orrery.check/1"},
                             {"scenario", scenario.file},
                             {"parameters", scenario.model_spec.parameters()},
                             {"gpus", scenario.gpus()},
                             {"warnings", scenario.warnings}};
    fmt::print("{}\n", j.dump(2));
    return 0;
  }
  fmt::print("{} is valid: {} with {} parameters, {} on {} GPUs of {}\n", scenario.file,
             scenario.model_spec.name, format_thousands(scenario.model_spec.parameters()),
             scenario.algorithm.name, scenario.gpus(), scenario.platform.cluster);
  for (const std::string& warning : scenario.warnings) fmt::print("warning: {}\n", warning);
  return 0;
}

int schema(const Arguments&) {
  fmt::print("{}", scenario_schema());
  return 0;
}

int doctor(const Arguments& arguments) {
  rlimit stack{};
  getrlimit(RLIMIT_STACK, &stack);
  nlohmann::ordered_json j;
  j["version"] = version();
  j["build"] = build();
  j["cuda"] = j["nccl"] = j["mpi"] = nullptr;
  j["simgrid"] = sim::simgrid_version();
  j["cpu_threads"] = std::thread::hardware_concurrency();
  j["stack_limit"] = nullptr;
  if (stack.rlim_cur != RLIM_INFINITY) j["stack_limit"] = stack.rlim_cur;
  j["data"] = data_root();
  if (arguments.json) {
    fmt::print("{}\n", j.dump(2));
    return 0;
  }
  for (const auto& [key, value] : j.items())
    fmt::print("{:<12} {}\n", key,
               value.is_null()     ? "none"
               : value.is_string() ? value.get<std::string>()
                                   : value.dump());
  return 0;
}

}  // namespace orrery::cli
