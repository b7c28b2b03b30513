// Stochastic gradient push: both worlds, cost, and what weights are for.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/parity/gossip_run.hpp"
#include "tests/parity/results.hpp"
#include "tests/support/errors.hpp"

namespace orrery {
namespace {

// Every worker's x once pushing has come to rest after one step that moved them apart, by `drift`;
// before its end, or behind it.
enum class End : std::uint8_t { before, behind };
std::vector<double> pushed(const std::string& options, const std::vector<float>& drift, End end,
                           const char* field, std::size_t element = 0) {
  constexpr std::int64_t steps = 200;
  AlgorithmCase c =
      drifting("{" + options + ", final_average: false, optimizer: {name: sgd, lr: 2, cosine: 2}}",
               Drift{drift}, steps);
  if (end == End::before) c.stop = steps;
  const WorldResult result = ran(run_in_sim(setup_of(c), training_of(c)));
  std::vector<double> x;
  for (std::size_t i = 0; i < drift.size(); ++i)
    x.push_back(static_cast<double>(state_of(result, i, field).at(element)));
  return x;
}

// Worker 0 hears from more than it tells.
std::string irregular_digraph() {
  std::string name = (std::filesystem::temp_directory_path() / "digraph-XXXXXX").string();
  const std::string path = std::string(mkdtemp(name.data())) + "/graph.txt";
  std::ofstream(path) << "0 1\n1 2\n2 3\n3 4\n4 0\n2 0\n3 0\n1 4\n";
  return path;
}

}  // namespace

TEST_CASE("SGP and overlap-SGP train in both worlds alike, and send what their cost block says") {
  for (const std::string algorithm :
       {"sgp", "sgp, graph: ring", "overlap-sgp", "overlap-sgp, overlap: 3, graph: ring"})
    for (const int replicas : {1, 2, 5, 8}) {
      CAPTURE(algorithm);
      CAPTURE(replicas);
      AlgorithmCase c;
      c.algorithm = "{name: " + algorithm + ", optimizer: {name: momentum, lr: 0.05}}";
      c.replicas = replicas;
      const WorldResult sim = ran(run_in_sim(setup_of(c), training_of(c))),
                        cpu = ran(run_in_cpu(setup_of(c), training_of(c)));
      CHECK(sim.noted() == cpu.noted());
      CHECK(sim.peaks == cpu.peaks);
      CHECK(sim.channels == cpu.channels);
      for (std::size_t rank = 0; rank < sim.notes.size(); ++rank) {
        CHECK(sim.notes[rank].checkpoints == cpu.notes[rank].checkpoints);
        CHECK(sent(sim, rank) == sent_by_cost_block(sim, rank));
      }
    }
}

TEST_CASE("SGP resumes after any step in the same bits, with a message under way too") {
  for (const std::string algorithm : {"sgp", "overlap-sgp, overlap: 2"})
    for (const std::int64_t stop : {1, 2, 3, 7}) {
      CAPTURE(algorithm);
      CAPTURE(stop);
      AlgorithmCase c;
      c.algorithm =
          "{name: " + algorithm + ", final_average: false, optimizer: {name: momentum, lr: 0.05}}";
      c.steps = 8;
      const WorldResult whole = ran(run_in_cpu(setup_of(c), training_of(c)));
      AlgorithmCase first = c;
      first.stop = stop;
      const WorldResult part = ran(run_in_cpu(setup_of(first), training_of(first)));
      AlgorithmCase rest = c;
      rest.resume = &part;
      const WorldResult resumed = ran(run_in_cpu(setup_of(rest), training_of(rest)));
      for (std::size_t rank = 0; rank < whole.notes.size(); ++rank)
        for (const auto& [name, bytes] : whole.notes[rank].checkpoints.at(0).fields)
          CHECK_MESSAGE(resumed.notes[rank].checkpoints.at(0).fields.at(name) == bytes,
                        name << " of worker " << rank);
    }
}

// Messages are x, then w. In step 199 that of round 199 is under way, or of round 66.
TEST_CASE("on a regular graph weights are 1, half of each being under way with overlap") {
  const std::vector<float> drift{-1, 2, 5, -4, 3, 3, 1, -1};
  for (const auto& [options, from] : {std::pair{"name: overlap-sgp", "sgp.from 1"},
                                      {"name: overlap-sgp, overlap: 3", "sgp.from 0"}}) {
    for (const double w : pushed(options, drift, End::before, "sgp.weight")) CHECK(w == 0.5);
    for (const double w : pushed(options, drift, End::before, from, 1)) CHECK(w == 0.5);
  }
}

TEST_CASE("pushing finds the mean, on an irregular digraph by its weights only") {
  const std::vector<float> eight{-1, 2, 5, -4, 3, 3, 1, -1}, five{-1, 2, 5, -4, 3};
  for (const double x : pushed("name: sgp", eight, End::before, "replica.parameters"))
    CHECK(x == doctest::Approx(-1).epsilon(1e-5));
  for (const double x : pushed("name: overlap-sgp, overlap: 3", eight, End::before, "sgp.z"))
    CHECK(x == doctest::Approx(-1).epsilon(1e-5));
  const std::string graph = irregular_digraph();
  for (const double z : pushed("name: sgp, graph: " + graph, five, End::before, "sgp.z"))
    CHECK(z == doctest::Approx(-1).epsilon(1e-5));
  double worst = 0;
  for (const double x :
       pushed("name: sgp, graph: " + graph, five, End::before, "replica.parameters"))
    worst = std::max(worst, std::fabs(x + 1));
  CHECK(worst > 0.5);
  // What a worker leaves behind has no weight any more.
  for (const std::string& options :
       {"name: sgp, graph: " + graph, "name: overlap-sgp, graph: " + graph}) {
    for (const double x : pushed(options, five, End::behind, "replica.parameters"))
      CHECK(x == doctest::Approx(-1).epsilon(1e-5));
    for (const double w : pushed(options, five, End::behind, "sgp.weight")) CHECK(w == 1);
  }
  std::filesystem::remove_all(std::filesystem::path(graph).parent_path());
}

TEST_CASE("a graph that SGP does not know is refused where it stands, with the nearest name") {
  for (const std::string name : {"sgp", "overlap-sgp"}) {
    const Error error = error_of([&] { plan_of("{name: " + name + ", graph: exponentail}"); });
    CHECK(error.category() == Category::config);
    CHECK(mentions(error, "1:"));
    CHECK(mentions(error, "exponential"));
  }
  const std::string graph = irregular_digraph();
  const AlgorithmPlan plan = plan_of("{name: sgp, graph: " + graph + "}");
  CHECK(plan.divide(5).island == 5);
  CHECK(mentions(error_of([&] { plan.divide(4); }), "two different workers of 0 to 3"));
  std::filesystem::remove_all(std::filesystem::path(graph).parent_path());
}

// Two workers, each pulled towards its own point from where it knows the mean to be: algorithm 2
// with tau 1, whose weights are 1/2 from the first step on.
TEST_CASE("gradients under overlap are at z, not at x") {
  constexpr double lr = 0.3, target[]{-1, 2};
  constexpr std::int64_t steps = 7;
  double x[]{1, 1}, z[]{1, 1}, sent[]{0, 0};
  for (std::int64_t k = 0; k < steps; ++k) {
    for (int i : {0, 1}) x[i] -= lr * (z[i] - target[i]);
    for (int i : {0, 1}) x[i] += sent[1 - i];
    for (int i : {0, 1}) {
      sent[i] = x[i] /= 2;
      z[i] = x[i] / 0.5;
    }
  }
  Quadratic q;
  q.curvature = [](int, std::size_t) { return 1.0F; };
  q.target = [](int rank, std::size_t) { return static_cast<float>(3 * (rank % 2) - 1); };
  AlgorithmCase c;
  c.algorithm = "{name: overlap-sgp, optimizer: {name: sgd, lr: 0.3}}";
  c.replicas = 2;
  c.steps = steps + 1;
  c.stop = steps;
  c.micro_batches = 1;
  c.model = quadratic(q);
  const WorldResult result = ran(run_in_sim(setup_of(c), training_of(c)));
  for (std::size_t i : {0, 1})
    for (const float each : state_of(result, i, "sgp.z"))
      CHECK(each == doctest::Approx(z[i]).epsilon(1e-5));
}

// Worker i pulls towards b_i; the mean settles at that of all b_i, and each beside it by its own
// pull, in proportion to the rate.
TEST_CASE("the bias of SGP on unlike workers is proportional to the learning rate") {
  const auto apart = [](double lr) {
    Quadratic q;
    q.target = [](int rank, std::size_t) { return static_cast<float>(rank); };
    AlgorithmCase c;
    c.algorithm =
        "{name: sgp, final_average: false, optimizer: {name: sgd, lr: " + std::to_string(lr) + "}}";
    c.replicas = 8;
    c.steps = static_cast<std::int64_t>(30 / lr);
    c.micro_batches = 1;
    c.model = quadratic(q);
    const WorldResult result = ran(run_in_sim(setup_of(c), training_of(c)));
    double square = 0;
    for (std::size_t i = 0; i < 8; ++i) {
      const double x = static_cast<double>(state_of(result, i, "replica.parameters")[0]);
      square += (x - 3.5) * (x - 3.5) / 8;
    }
    return std::sqrt(square);
  };
  const double small = apart(0.02), large = apart(0.04);
  CHECK(small > 0.01);
  CHECK(large / small == doctest::Approx(2).epsilon(0.05));
}

}  // namespace orrery
