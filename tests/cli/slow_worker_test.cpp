// What one slow worker costs the others.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "backend/core/text.hpp"
#include "tests/cli/process.hpp"

using namespace orrery;

namespace {

// Until all workers of scenarios/ring-gossip.yaml together have computed 60 gradients each, over
// its slow links.
double seconds(const std::string& algorithm, const std::string& speed) {
  const TemporaryFolder folder;
  const Finished run = orrery_with(
      {"simulate", "scenarios/ring-gossip.yaml", "--quiet", "--out", folder.path(), "--set",
       "algorithm={name: " + algorithm + ", optimizer: {name: momentum, lr: 0.1}}", "--set",
       "data={global_batch: 128, micro_batch: 8}", "--set", "run={steps: 60}", "--set",
       "cluster_conditions={jitter: 0.02, gpu_speed: {slow: [{gpus: [5], speed: " + speed +
           "}]}}"});
  REQUIRE_MESSAGE(run.exit == 0, run.err);
  const std::vector<std::string> lines = split(text_of_file(folder.file("metrics.csv")), '\n');
  return std::stod(split(lines.at(lines.size() - 2), ',').at(1));  // the first worker's last
}

}  // namespace

// Lian et al. 2018, "Asynchronous Decentralized Parallel Stochastic Gradient Descent" (arXiv
// 1710.06952): one slow worker stops all-reduce, and AD-PSGD goes on.
TEST_CASE("a worker ten times slower makes DDP as slow as it is, and costs AD-PSGD what it does") {
  CHECK(seconds("ddp", "0.1") > 3 * seconds("ddp", "1"));  // links take the same time
  for (const char* graph : {"exponential", "ring"}) {
    CAPTURE(graph);
    const std::string gossip = std::string("ad-psgd, final_average: false, graph: ") + graph;
    const double slower = seconds(gossip, "0.1") / seconds(gossip, "1");
    CHECK(slower > 1);
    CHECK(slower < 1.05 * 16 / 15.1);  // fifteen workers and a tenth do the work of sixteen
  }
}
