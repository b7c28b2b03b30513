// `orrery run`: the scenario for real.
#include <utility>

#include "scenarios/cli/command.hpp"
#include "scenarios/cli/files.hpp"
#include "scenarios/cli/simulation.hpp"
#include "scenarios/cli/variants.hpp"

namespace orrery::cli {

namespace {

// What needs the ranks of all processes, or a file of each.
void refuse_among_several(const Arguments& arguments, const Scenario& scenario) {
  for (const auto& [asked, what] :
       {std::pair{!arguments.checkpoint.empty(), "--checkpoint"},
        {arguments.trace, "--trace"},
        {arguments.profile, "--profile"},
        {scenario.run.record.has_value(), "run.record"},
        {scenario.run.replay.has_value(), "run.replay"},
        {scenario.data.evaluate_every.has_value(), "data.evaluate_every"},
        {scenario.platform.throttle.has_value(), "platform.throttle"}})
    if (asked)
      throw Error(
          Category::usage,
          std::string(what) + " needs all ranks in one process: start one, without WORLD_SIZE");
}

int run_among(const ProcessGroup& group, const Arguments& given) {
  if (group.alone()) check_world(given);
  if (given.checkpoint_every > 0 && given.checkpoint.empty())
    throw Error(Category::usage, "--checkpoint-every needs --checkpoint, the file to write to");
  trace_path(given);  // refuses one without a folder
  Arguments arguments = given;
  arguments.set.push_back("run.values=real");  // a real run computes
  const Scenario scenario = read_scenario(arguments);
  refuse_simulated(scenario);
  if (!group.alone()) {
    refuse_among_several(arguments, scenario);
    group.check(scenario);
    check_world(given, group);
  }
  if (group.speaks() && !arguments.out.empty()) make_result_folder(arguments.out);
  const auto outcome = run_scenario(scenario, arguments, "running", trace_path(arguments), group);
  if (outcome) deliver(*outcome, scenario, arguments);
  return 0;
}

}  // namespace

int run(const Arguments& given) {
  const ProcessGroup group = ProcessGroup::joined(given.world);
  return group.carry_out([&] { return run_among(group, given); });
}

}  // namespace orrery::cli
