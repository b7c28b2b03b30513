// Scenarios give the same figures whoever issues for their ranks: an actor each, one recording for
// many, or one rank for all that are alike.
#include <doctest/doctest.h>

#include "backend/cpu/bodies.hpp"
#include "platforms/cluster.hpp"
#include "scenarios/training.hpp"
#include "sim/simgrid/engine.hpp"
#include "sim/world.hpp"
#include "tests/scenarios/root.hpp"
#include "tests/support/forked.hpp"
#include "tests/support/report_text.hpp"

using namespace orrery;

namespace {

Scenario scenario_with(const std::vector<std::string>& settings) {
  Document d = Document::parse_file(root + "/scenarios/quickstart.yaml");
  d.set("run.steps=2");
  for (const std::string& setting : settings) d.set(setting);
  return read_scenario(d, root);
}

std::string figures(const Scenario& scenario, Execution execution, std::string& simulated) {
  const std::string text = in_child([&] {
    const Cluster cluster(scenario.machines, scenario.gpus());
    SimOptions options;
    options.machine = &cluster;
    options.host_clock = scenario.run.host_clock;
    options.execution = execution;
    WorldOptions world = world_options(scenario);
    world.bodies = &cpu_bodies();  // of counts and norms
    const RunReport report = make_sim_world(world, options)->run(training_program(scenario));
    return std::to_string(report.ranks.distinct()) + "\n" + to_text(report);
  });
  simulated = text.substr(0, text.find('\n'));
  return text.substr(text.find('\n'));
}

void check_alike(const std::vector<std::string>& settings, const std::string& folded_into) {
  for (const std::string& setting : settings) CAPTURE(setting);
  const Scenario scenario = scenario_with(settings);
  std::string ranks;
  const std::string actors = figures(scenario, Execution::actors, ranks);
  CHECK(ranks == std::to_string(scenario.gpus()));
  CHECK(figures(scenario, Execution::shared, ranks) == actors);
  CHECK(ranks == std::to_string(scenario.gpus()));
  CHECK(figures(scenario, Execution::automatic, ranks) == actors);
  CHECK(ranks == folded_into);
}

}  // namespace

TEST_CASE("replicas of a model fold into one rank per pipeline stage") {
  check_alike({}, "1");
  check_alike({"parallel.pipeline=2", "memory.recompute=full"}, "2");
  check_alike({"parallel.pipeline=8", "data.micro_batch=2", "run.host_clock=false"}, "8");
  check_alike({"parallel.schedule=gpipe", "parallel.pipeline=4", "data.micro_batch=4"}, "4");
}

TEST_CASE("512 GPUs of a large cluster are alike whoever issues for them") {
  const std::string gpus = sim::actors_are_threads ? "32" : "512";
  check_alike({"platform.cluster=selene-a100", "platform.gpus=" + gpus, "parallel.pipeline=4",
               "data.global_batch=512", "data.micro_batch=2"},
              sim::actors_are_threads ? "4" : "16");  // some peers are more switches away
}
