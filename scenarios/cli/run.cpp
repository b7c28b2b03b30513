// `orrery run`: the scenario for real.
#include "scenarios/cli/command.hpp"
#include "scenarios/cli/files.hpp"
#include "scenarios/cli/simulation.hpp"
#include "scenarios/cli/variants.hpp"

namespace orrery::cli {

int run(const Arguments& given) {
  check_world(given);
  if (given.checkpoint_every > 0 && given.checkpoint.empty())
    throw Error(Category::usage, "--checkpoint-every needs --checkpoint, the file to write to");
  trace_path(given);  // refuses one without a folder
  Arguments arguments = given;
  arguments.set.push_back("run.values=real");  // a real run computes
  const Scenario scenario = read_scenario(arguments);
  refuse_simulated(scenario);
  if (!arguments.out.empty()) make_result_folder(arguments.out);
  deliver(run_scenario(scenario, arguments, "running", trace_path(arguments)), scenario, arguments);
  return 0;
}

}  // namespace orrery::cli
