// DADAO: its rate on losses whose solution is known, and the other worlds.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numbers>

#include "tests/parity/gossip_run.hpp"

namespace orrery {
namespace {

constexpr int dadao_workers = 16;
constexpr double mu = 1, smoothness = 9.6;

// Worker i: 1/2 sum over j of a_ij (x_j - b_ij)^2, curvatures between mu and L, both taken.
Quadratic regression() {
  Quadratic q;
  q.elements = 8;
  q.curvature = [](int rank, std::size_t j) {
    const auto at = static_cast<float>((static_cast<std::size_t>(rank) * 5 + j * 3) % 17) / 16;
    return static_cast<float>(mu + (smoothness - mu) * static_cast<double>(at * at));
  };
  q.target = [](int rank, std::size_t j) {
    return static_cast<float>((static_cast<std::size_t>(rank) * 7 + j * 11) % 13) / 4 - 1.5F;
  };
  q.seconds = {1e-3};
  return q;
}

struct DadaoRun {
  double error = 0;     // the mean over workers of ||x_i - x*||^2
  double messages = 0;  // of a worker per unit of time
};

DadaoRun trained(const std::string& graph, std::int64_t units) {
  const Quadratic q = regression();
  AlgorithmCase c;
  c.algorithm = "{name: dadao, mu: 1, smoothness: 9.6, final_average: false, graph: " + graph + "}";
  c.replicas = dadao_workers;
  c.steps = units;
  c.micro_batches = 1;
  c.model = quadratic(q);
  const WorldResult result = run_in_sim(swift(c, 3), training_of(c));
  REQUIRE_MESSAGE(!result.error, why(result));
  DadaoRun trained;
  for (std::size_t j = 0; j < q.elements; ++j) {
    double pull = 0, stiffness = 0;
    for (int i = 0; i < dadao_workers; ++i) {
      pull += static_cast<double>(q.curvature(i, j) * q.target(i, j));
      stiffness += static_cast<double>(q.curvature(i, j));
    }
    for (std::size_t i = 0; i < dadao_workers; ++i) {
      const double x = static_cast<double>(state_of(result, i, "replica.parameters")[j]);
      trained.error += (x - pull / stiffness) * (x - pull / stiffness) / dadao_workers;
    }
  }
  for (std::size_t i = 0; i < dadao_workers; ++i)
    trained.messages += static_cast<double>(sent(result, i)) / static_cast<double>(4 * q.elements) /
                        static_cast<double>(dadao_workers * units);
  return trained;
}

// `lambda`: messages of all workers per unit of time, each of which two of them send.
void check_rate(const std::string& graph, double lambda) {
  CAPTURE(graph);
  std::vector<double> t, y;
  double messages = 0;
  for (std::int64_t units = 30; units <= 330; units += 15) {
    t.push_back(static_cast<double>(units));
    const DadaoRun end = trained(graph, units);
    y.push_back(std::log(end.error));
    messages = end.messages;
  }
  const auto n = static_cast<double>(t.size());
  double st = 0, sy = 0, stt = 0, sty = 0, syy = 0;
  for (std::size_t i = 0; i < t.size(); ++i) {
    st += t[i], sy += y[i], stt += t[i] * t[i], sty += t[i] * y[i], syy += y[i] * y[i];
  }
  const double slope = (n * sty - st * sy) / (n * stt - st * st);
  const double fit = std::pow(n * sty - st * sy, 2) / ((n * stt - st * st) * (n * syy - sy * sy));
  CHECK(messages == doctest::Approx(2 * lambda / dadao_workers).epsilon(0.05));
  CHECK(-slope >= std::sqrt(mu / 2 / smoothness) / 8);
  CHECK(fit > 0.98);
}

}  // namespace

// lambda = sqrt(2 chi1 chi2), of Laplacians whose |E| edges have weights 1 / |E|:
//   ring      lambda_2 = 2 (1 - cos 2 pi / n) / n, resistance of an edge n - 1
//   complete  lambda_2 = 2 / (n - 1), resistance n - 1
//   star      lambda_2 = 1 / (n - 1), resistance n - 1
TEST_CASE("DADAO's error falls by at least q / 8 per unit of time, evenly, on a ring") {
  const double half = std::sin(std::numbers::pi / dadao_workers);
  check_rate("ring", std::sqrt(dadao_workers * (dadao_workers - 1) / (4 * half * half)));
}
TEST_CASE("DADAO's error falls by at least q / 8 per unit of time, evenly, on a complete graph") {
  check_rate("complete", (dadao_workers - 1) / std::sqrt(2));
}
TEST_CASE("DADAO's error falls by at least q / 8 per unit of time, evenly, on a star") {
  std::string folder = (std::filesystem::temp_directory_path() / "star-XXXXXX").string();
  const std::string path = std::string(mkdtemp(folder.data())) + "/graph.txt";
  std::ofstream star(path);
  for (int i = 1; i < dadao_workers; ++i) star << "0 " << i << "\n";
  star.close();
  check_rate(path, dadao_workers - 1);
  std::filesystem::remove_all(folder);
}

TEST_CASE("DADAO in sim is repeated on cpu bit for bit") {
  AlgorithmCase c;
  c.algorithm = "{name: dadao, mu: 1, smoothness: 9.6}";
  c.replicas = 5;
  c.steps = 12;
  c.micro_batches = 1;
  c.model = quadratic(regression());
  for (const char* const pairing : {"poisson", "available"}) {
    c.algorithm = std::string("{name: dadao, mu: 1, smoothness: 9.6, pairing: ") + pairing + "}";
    const WorldResult sim = run_in_sim(recording(swift(c, 1)), training_of(c));
    REQUIRE_MESSAGE(!sim.error, why(sim));
    const WorldResult cpu = run_in_cpu(replaying(swift(c, 1), sim), training_of(c));
    REQUIRE_MESSAGE(!cpu.error, why(cpu));
    CHECK(sim.noted() == cpu.noted());
    CHECK(sim.peaks == cpu.peaks);
    for (std::size_t i = 0; i < 5; ++i) {
      CHECK(sim.notes[i].checkpoints == cpu.notes[i].checkpoints);
      CHECK(sent(sim, i) == sent_by_cost_block(sim, i));
    }
  }
}

}  // namespace orrery
