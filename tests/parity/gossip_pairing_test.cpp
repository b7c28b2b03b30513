// What pairing costs and whom it pairs, on graphs from sparse to complete: 16 workers whose
// gradients take times that vary, in sim.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <map>
#include <sstream>

#include "algorithms/gossip/graph.hpp"
#include "tests/parity/gossip_run.hpp"

namespace orrery {
namespace {

constexpr int paired_workers = 16;
constexpr std::int64_t paired_steps = 300;
// Of a gradient, in ms, each as often: their mean is 1 and their standard deviation 0.14.
constexpr std::array<double, 5> milliseconds{0.8, 0.9, 1.0, 1.1, 1.2};

// A gradient of 0 that takes one of these times, drawn for each.
class VaryingBlock : public Block {
 public:
  VaryingBlock() {
    parameters_ = {{"x", 1, 0, 0.0, false, 0}};
    computes_loss_ = true;
  }
  void prepare(Rank& rank) override {
    order_ = Random(11, Purpose::user, static_cast<std::uint32_t>(rank.id()));
    for (const double ms : milliseconds)
      gradients_.push_back(rank.prepare(Kernel::custom(
          "gradient", {Role::read, Role::update}, [](std::span<const View>) {}, Flops(0), Bytes(0),
          Seconds(ms * 1e-3))));
  }
  void forward(const BlockPass&) const override {}
  void backward(const BlockPass& p) const override {
    p.stream.launch(gradients_[order_.below(gradients_.size())], {p.parameters, p.gradients});
  }

 private:
  std::vector<Prepared> gradients_;
  mutable Random order_{11, Purpose::user};
};

struct Pairing {
  double idle = 0;  // share of the time until its last gradient in which a worker computes none
  double rate = 0;  // averagings per gradient
  double chi_square = 0, freedom = 0;  // of meetings by edge, all edges being alike
};

Pairing pairing_on(const std::string& options) {
  AlgorithmCase c = drifting(
      "{name: a2cid2, final_average: false, " + options + ", optimizer: {name: sgd, lr: 0.1}}",
      Drift{std::vector<float>(paired_workers)}, paired_steps);
  c.model = [](Rank&, int) {
    Model model;
    model.name = "varying";
    model.text = test_text();
    model.blocks.push_back(std::make_shared<VaryingBlock>());
    return model;
  };
  WorldSetup setup = swift(c, 3);
  setup.trace = true;
  const WorldResult result = run_in_sim(setup, training_of(c));
  REQUIRE_MESSAGE(!result.error, why(result));
  Pairing pairing;
  double gradients = 0, seconds = 0;
  for (const auto& ends : result.steps) {
    gradients += static_cast<double>(ends.size());
    seconds += static_cast<double>(ends.back()) * 1e-12;
  }
  pairing.idle = 1 - gradients * 1e-3 / seconds;
  // Two who have several averagings to make find each other waiting again at once. What they do in
  // a row is one meeting.
  std::map<std::pair<int, int>, double> meetings;
  std::map<int, int> last;
  double all = 0, met = 0;
  std::istringstream lines(result.trace);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t peer = line.find("\"peer\":"), pid = line.find("\"pid\":");
    if (peer == std::string::npos) continue;
    const int i = std::stoi(line.substr(pid + 6)), j = std::stoi(line.substr(peer + 7));
    ++all;
    if (i > j) continue;
    if (last[i] != j + 1 || last[j] != i + 1) ++meetings[{i, j}], ++met;
    last[i] = j + 1;
    last[j] = i + 1;
  }
  pairing.rate = all / gradients;
  const std::size_t at = options.find("graph: ") + 7;
  const Graph graph(options.substr(at, options.find(',', at) - at), paired_workers);
  const double each = met / static_cast<double>(graph.edges().size());
  for (const auto& edge : graph.edges())
    pairing.chi_square += (meetings[edge] - each) * (meetings[edge] - each) / each;
  pairing.freedom = static_cast<double>(graph.edges().size()) - 1;
  return pairing;
}

}  // namespace

// On a ring a worker has two to wait for, and one of them often waits for its other neighbour.
TEST_CASE("pairing leaves workers little idle, keeps the rate, and uses all edges alike") {
  for (const std::string graph : {"ring", "exponential", "complete"})
    for (const std::string rate : {"1", "2", "1, exact_rate: true", "1, pairing: poisson"}) {
      CAPTURE(graph);
      CAPTURE(rate);
      const Pairing p = pairing_on("graph: " + graph + ", rate: " + rate);
      CHECK(p.idle < (graph == "ring" ? 0.15 : 0.02));
      CHECK(p.rate == doctest::Approx(rate[0] - '0').epsilon(0.03));
      CHECK(p.chi_square < p.freedom + 4 * std::sqrt(2 * p.freedom));
    }
}

}  // namespace orrery
