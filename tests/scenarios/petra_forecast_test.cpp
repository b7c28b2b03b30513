// PETRA on real platforms: what it is forecast to gain over reversible model parallelism whose
// stages take turns.
#include <doctest/doctest.h>

#include <sstream>

#include "backend/cpu/bodies.hpp"
#include "platforms/cluster.hpp"
#include "scenarios/training.hpp"
#include "sim/world.hpp"
#include "tests/support/forked.hpp"

using namespace orrery;

namespace {

const std::string root = ORRERY_SOURCE_DIR;

// Seconds per batch of the steady state, on GPUs of one server and its neighbour.
double seconds_per_batch(const std::string& model, int stages, const std::string& algorithm) {
  Document d = Document::parse_file(root + "/scenarios/revnet-petra.yaml");
  std::string layers = "[0";
  for (int i = 0; i < stages - 2; ++i) layers += ", 1";
  for (const std::string& setting :
       {"model=" + model, "parallel.pipeline=" + std::to_string(stages),
        "parallel.layers=" + layers + ", 0]", std::string("platform.cluster=four-dgx-a100"),
        "platform.gpus=" + std::to_string(stages), "algorithm=" + algorithm,
        std::string("run.steps=90")})
    d.set(setting);
  const Scenario scenario = read_scenario(d, root);
  const std::string text = in_child([&] {
    const Cluster cluster(scenario.machines, scenario.gpus());
    SimOptions options;
    options.machine = &cluster;
    options.host_clock = scenario.run.host_clock;
    WorldOptions world = world_options(scenario);
    world.bodies = &cpu_bodies();  // of counts
    const RunReport report = make_sim_world(world, options)->run(training_program(scenario));
    const auto& steps = report.ranks[0].steps;
    std::ostringstream out;
    out << static_cast<double>(steps[80].at.picoseconds - steps[60].at.picoseconds) / 20 * 1e-12;
    return out.str();
  });
  return std::stod(text);
}

}  // namespace

TEST_CASE("PETRA is forecast to be faster than reversible model parallelism, and not J times") {
  struct Row {
    std::string model;
    int stages;
    double published;  // of the second version of arXiv 2406.02052, on CIFAR-10
  };
  for (const Row& row : {Row{"revnet-18-cifar", 10, 3.0}, Row{"revnet-34-cifar", 18, 2.4}}) {
    const double turns = seconds_per_batch(row.model, row.stages, "{name: reversible-backprop}");
    const double petra = seconds_per_batch(row.model, row.stages, "{name: petra}");
    const double two = seconds_per_batch(row.model, row.stages, "{name: petra, engines: 2}");
    MESSAGE(row.model << " on " << row.stages << " A100: " << 1e3 * turns << " ms by turns, "
                      << 1e3 * petra << " ms by PETRA, " << 1e3 * two
                      << " ms on two streams: " << turns / petra << " and " << turns / two
                      << " times faster; published " << row.published);
    CHECK(turns / petra > 1.5);
    CHECK(turns / petra < row.stages);
    CHECK(two < 1.01 * petra);
  }
}
