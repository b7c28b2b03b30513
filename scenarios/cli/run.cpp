// `orrery run`: the scenario for real.
#include "scenarios/cli/command.hpp"
#include "scenarios/cli/files.hpp"
#include "scenarios/cli/simulation.hpp"

namespace orrery::cli {

int run(const Arguments& given) {
  if (given.world == "cuda")
    throw Error(Category::unavailable,
                "this build has no CUDA world; `orrery run --world cpu` runs on the processor");
  if (given.world != "cpu")
    throw Error(Category::usage, "--world takes cpu, not '" + given.world + "'");
  Arguments arguments = given;
  arguments.set.push_back("run.values=real");  // a real run computes
  const Scenario scenario = read_scenario(arguments);
  if (!arguments.out.empty()) make_result_folder(arguments.out);
  deliver(run_scenario(scenario, arguments), scenario, arguments);
  return 0;
}

}  // namespace orrery::cli
