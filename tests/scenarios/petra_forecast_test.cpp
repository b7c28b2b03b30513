// PETRA on real platforms: what it is forecast to gain over reversible model parallelism whose
// stages take turns.
#include <doctest/doctest.h>

#include <algorithm>
#include <sstream>
#include <vector>

#include "backend/cpu/bodies.hpp"
#include "platforms/cluster.hpp"
#include "scenarios/training.hpp"
#include "sim/world.hpp"
#include "tests/scenarios/root.hpp"
#include "tests/support/forked.hpp"

using namespace orrery;

namespace {

struct Rhythm {
  double period = 0;             // seconds per batch of the steady state
  std::vector<double> computes;  // seconds of each stage's stream per batch
};

// On GPUs of one server and its neighbours.
Rhythm rhythm_of(const std::string& model, int stages, const std::string& algorithm) {
  Document d = Document::parse_file(root + "/scenarios/revnet-petra.yaml");
  std::string layers = "[0";
  for (int i = 0; i < stages - 2; ++i) layers += ", 1";
  for (const std::string& setting :
       {"model=" + model, "parallel.pipeline=" + std::to_string(stages),
        "parallel.layers=" + layers + ", 0]", std::string("platform.cluster=four-dgx-a100"),
        "platform.gpus=" + std::to_string(stages), "algorithm=" + algorithm,
        std::string("run.steps=120")})
    d.set(setting);
  const Scenario scenario = read_scenario(d, root);
  std::istringstream text(in_child([&] {
    const Cluster cluster(scenario.machines, scenario.gpus());
    SimOptions options;
    options.machine = &cluster;
    options.host_clock = scenario.run.host_clock;
    WorldOptions world = world_options(scenario);
    world.bodies = &cpu_bodies();  // of counts
    const RunReport report = make_sim_world(world, options)->run(training_program(scenario));
    std::ostringstream out;
    const auto per_batch = [](Time from, Time to) {
      return static_cast<double>(to.picoseconds - from.picoseconds) / 20 * 1e-12;
    };
    // Before the first stage has no forwards any more, 2 J - 1 batches before the end.
    out << per_batch(report.ranks[0].steps[60].at, report.ranks[0].steps[80].at);
    for (const RankReport& rank : report.ranks)
      out << ' ' << per_batch(rank.steps[60].parts.compute, rank.steps[80].parts.compute);
    return out.str();
  }));
  Rhythm r;
  text >> r.period;
  for (double seconds = 0; text >> seconds;) r.computes.push_back(seconds);
  return r;
}

}  // namespace

TEST_CASE("PETRA's forecast gain is that of its slowest stage over all in turn, far below J") {
  struct Row {
    std::string model;
    int stages;
    double published;  // of the second version of arXiv 2406.02052, on CIFAR-10
  };
  for (const Row& row : {Row{"revnet-18-cifar", 10, 3.0}, Row{"revnet-34-cifar", 18, 2.4}}) {
    CAPTURE(row.model);
    const Rhythm turns = rhythm_of(row.model, row.stages, "{name: reversible-backprop}");
    const Rhythm petra = rhythm_of(row.model, row.stages, "{name: petra}");
    const Rhythm two = rhythm_of(row.model, row.stages, "{name: petra, engines: 2}");
    const double slowest = *std::max_element(petra.computes.begin(), petra.computes.end());
    double all = 0;
    for (const double seconds : turns.computes) all += seconds;
    MESSAGE(row.model << " on " << row.stages << " A100: " << 1e3 * turns.period
                      << " ms by turns, of which " << 1e3 * all << " compute, "
                      << 1e3 * petra.period << " ms by PETRA, whose slowest stage computes "
                      << 1e3 * slowest << ", " << 1e3 * two.period
                      << " ms on two streams: " << turns.period / petra.period << " and "
                      << turns.period / two.period << " times faster; published " << row.published);
    CHECK(turns.period >= all);
    CHECK(petra.period >= slowest);
    CHECK(petra.period < 1.02 * slowest);
    CHECK(turns.period / petra.period < row.stages);
    CHECK(two.period <= petra.period);
  }
}
