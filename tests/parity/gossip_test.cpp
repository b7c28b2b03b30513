// A2CiD2 and AD-PSGD: the same bits in both worlds by the decision log, an end for any number of
// workers, traffic as their cost block says, and what keeps the mean.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <sstream>

#include "algorithms/gossip/graph.hpp"
#include "sim/simgrid/engine.hpp"
#include "tests/parity/gossip_run.hpp"
#include "tests/parity/results.hpp"

namespace orrery {
namespace {

const char* const sgd_optimizer = ", optimizer: {name: sgd, lr: 0.1}}";

// Workers of unlike speed, so that pairs come about in an order that is theirs.
AlgorithmCase unlike(const std::string& algorithm, int replicas, std::int64_t steps) {
  Quadratic q;
  q.elements = 5;
  q.target = [](int rank, std::size_t j) {
    return static_cast<float>(rank) + 0.1F * static_cast<float>(j);
  };
  q.seconds.clear();
  for (int i = 0; i < replicas; ++i) q.seconds.push_back(1e-5 * (1 + (i * 7) % 5));
  AlgorithmCase c;
  c.algorithm = algorithm;
  c.replicas = replicas;
  c.steps = steps;
  c.micro_batches = 1;
  c.model = quadratic(q);
  return c;
}

void check_repeated(const WorldResult& first, const WorldResult& again) {
  CHECK(again.noted() == first.noted());
  CHECK(again.peaks == first.peaks);
  CHECK(again.channels == first.channels);
  REQUIRE(again.notes.size() == first.notes.size());
  for (std::size_t rank = 0; rank < first.notes.size(); ++rank)
    CHECK(again.notes[rank].checkpoints == first.notes[rank].checkpoints);
}

void check_cost_block(const WorldResult& result) {
  for (std::size_t rank = 0; rank < result.notes.size(); ++rank)
    CHECK(sent(result, rank) == sent_by_cost_block(result, rank));
}

// All algorithms, ways of pairing, graphs and rates take their turns over the seeds, and over every
// tenth of them.
std::string varied(std::uint64_t seed) {
  static const char* const names[] = {"a2cid2", "ad-psgd", "a2cid2, as_coded: true",
                                      "dadao",  "sgp",     "overlap-sgp"};
  static const char* const graphs[] = {"ring", "exponential", "complete", "torus"};
  static const char* const rates[] = {"1", "2.5", "0.4"};
  const std::uint64_t turn = seed + seed / 10;
  const std::string start = std::string("{name: ") + names[turn % 6];
  if (turn % 6 > 3) return start + ", graph: " + graphs[turn / 6 % 2] + sgd_optimizer;
  const std::string gossip = start + ", graph: " + graphs[turn / 2 % 4] +
                             ", pairing: " + (seed / 2 % 3 == 0 ? "poisson" : "available");
  if (turn % 6 == 3) return gossip + ", mu: 1, smoothness: 4}";
  return gossip + ", rate: " + rates[seed / 3 % 3] + sgd_optimizer;
}

// Those that run on the CPU too, where actors are threads, which are slow.
constexpr std::uint64_t every_seed = sim::actors_are_threads ? 10 : 1;

void ends_for_seeds(int first, int last) {
  for (int ranks = first; ranks <= last; ++ranks)
    for (std::uint64_t seed = every_seed; seed <= 200; seed += every_seed) {
      CAPTURE(ranks);
      CAPTURE(seed);
      AlgorithmCase c = unlike(varied(seed), ranks, 4);
      WorldSetup setup = setup_of(c);
      setup.options.seed = seed;
      const bool on_cpu = seed % 10 == 0;
      const WorldResult sim = ran(run_in_sim(on_cpu ? recording(setup) : setup, training_of(c)));
      check_cost_block(sim);
      if (!on_cpu) continue;
      check_cost_block(ran(run_in_cpu(setup, training_of(c))));
      check_repeated(sim, ran(run_in_cpu(replaying(setup, sim), training_of(c))));
    }
}

}  // namespace

TEST_CASE("A2CiD2 in sim is repeated on cpu bit for bit, and the other way round") {
  for (const std::string name : {"a2cid2", "a2cid2, as_coded: true", "a2cid2, pairing: poisson",
                                 "ad-psgd", "a2cid2, exact_rate: true, rate: 2"}) {
    CAPTURE(name);
    AlgorithmCase c;
    c.algorithm = "{name: " + name + ", graph: ring, optimizer: {name: momentum, lr: 0.05}}";
    c.replicas = 5;
    c.steps = 20;
    const WorldSetup setup = setup_of(c);
    const WorldResult sim = ran(run_in_sim(recording(setup), training_of(c)));
    check_repeated(sim, ran(run_in_cpu(replaying(setup, sim), training_of(c))));
    const WorldResult cpu = ran(run_in_cpu(recording(setup), training_of(c)));
    check_repeated(cpu, ran(run_in_sim(replaying(setup, cpu), training_of(c))));
    check_cost_block(sim);
  }
}

TEST_CASE("gossip ends on 1 to 5 workers, odd numbers too, and leaves no message") {
  ends_for_seeds(1, 5);
}
TEST_CASE("gossip ends on 6 or 7 workers and leaves no message") { ends_for_seeds(6, 7); }
TEST_CASE("gossip ends on 8 or 9 workers and leaves no message") { ends_for_seeds(8, 9); }

TEST_CASE("A2CiD2 without mixing and with alpha~ = 1/2 is AD-PSGD, bit for bit") {
  const AlgorithmCase plain = unlike(std::string("{name: ad-psgd") + sgd_optimizer, 6, 30);
  const AlgorithmCase none =
      unlike(std::string("{name: a2cid2, eta: 0, alpha_tilde: 0.5") + sgd_optimizer, 6, 30);
  const WorldResult a = ran(run_in_sim(recording(setup_of(plain)), training_of(plain)));
  const WorldResult b = ran(run_in_sim(replaying(setup_of(none), a), training_of(none)));
  for (std::size_t rank = 0; rank < 6; ++rank)
    CHECK(state_of(a, rank, "replica.parameters") == state_of(b, rank, "replica.parameters"));
  const AlgorithmCase accelerated = unlike(std::string("{name: a2cid2") + sgd_optimizer, 6, 30);
  const WorldResult c = ran(run_in_sim(setup_of(accelerated), training_of(accelerated)));
  CHECK(state_of(a, 0, "replica.parameters") != state_of(c, 0, "replica.parameters"));
}

// Each gradient is a constant of its worker, so the mean of x is known from who computed how many.
// Where x and x~ are mixed, partners that apply an averaging a moment apart leave a little of it.
TEST_CASE("averaging keeps the mean of x, nearly so while it is accelerated, not as it is coded") {
  const auto off_by = [](const std::string& options) {
    Drift d{{1, -2, 3, 0.5F, -1}, {1e-3, 1.3e-3, 0.7e-3}};
    const AlgorithmCase c = drifting("{name: " + options + sgd_optimizer, d, 40);
    WorldSetup setup = swift(c, 3);
    setup.machine.alpha = Time(200'000'000);  // 0.2 ms: gradients end while x is under way
    const WorldResult result = ran(run_in_sim(setup, training_of(c)));
    const std::vector<std::vector<double>> at = places(result);
    double expected = 0, mean = 0;
    for (std::size_t i = 0; i < at.size(); ++i) {
      expected -= 0.1 * static_cast<double>(d.drift[i]) * static_cast<double>(at[i].size()) / 5;
      mean += static_cast<double>(state_of(result, i, "replica.parameters")[0]) / 5;
    }
    return std::fabs(mean - expected);
  };
  CHECK(off_by("ad-psgd, graph: ring") < 1e-6);
  CHECK(off_by("ad-psgd, graph: complete, rate: 2") < 1e-6);
  CHECK(off_by("a2cid2, graph: ring") < 2e-3);
  CHECK(off_by("a2cid2, graph: ring, as_coded: true") > 0.02);
}

TEST_CASE("a slow worker computes fewer gradients, and nobody waits for it") {
  Drift d{{0, 0, 0, 0, 0, 0, 0, 0}, {4e-3, 1e-3}};
  const AlgorithmCase c =
      drifting(std::string("{name: ad-psgd, graph: complete") + sgd_optimizer, d, 100);
  const WorldResult result = ran(run_in_sim(swift(c, 1), training_of(c)));
  const std::vector<std::vector<double>> at = places(result);
  std::size_t all = 0;
  for (const auto& steps : at) all += steps.size();
  CHECK(all == 800);
  for (std::size_t i = 1; i < at.size(); ++i)
    CHECK(static_cast<double>(at[i].size()) / static_cast<double>(at[0].size()) ==
          doctest::Approx(4).epsilon(0.2));
}

// Every pair twice in the trace, once by each: "pid": a worker, "peer": its partner.
TEST_CASE("workers average as often as they are told to, and with all of their neighbours") {
  struct Expected {
    std::string options;
    double rate;
  };
  for (const auto& [options, rate] : {Expected{"graph: ring", 1},
                                      {"graph: ring, pairing: poisson", 1},
                                      {"graph: exponential, rate: 2", 2},
                                      {"graph: complete, rate: 0.5", 0.5},
                                      {"graph: complete, rate: 0.5, pairing: poisson", 0.5}}) {
    CAPTURE(options);
    constexpr int n = 8;
    constexpr std::int64_t steps = 400;
    const AlgorithmCase c =
        drifting("{name: a2cid2, " + options + sgd_optimizer,
                 Drift{std::vector<float>(n), {1e-3, 1.1e-3, 0.9e-3, 1.2e-3}}, steps);
    WorldSetup setup = swift(c, 5);
    setup.trace = true;
    const WorldResult result = ran(run_in_sim(setup, training_of(c)));
    std::map<std::pair<int, int>, double> pairs;
    double all = 0;
    std::istringstream lines(result.trace);
    for (std::string line; std::getline(lines, line);) {
      const std::size_t with = line.find("\"peer\":"), pid = line.find("\"pid\":");
      if (with == std::string::npos) continue;
      ++pairs[{std::stoi(line.substr(pid + 6)), std::stoi(line.substr(with + 7))}];
      ++all;
    }
    CHECK(all / (n * steps) == doctest::Approx(rate).epsilon(0.08));
    const bool poisson = c.algorithm.find("poisson") != std::string::npos;
    const std::string graph_name = c.algorithm.substr(c.algorithm.find("graph: ") + 7);
    const Graph graph(graph_name.substr(0, graph_name.find(',')), n);
    CHECK(pairs.size() == 2 * graph.edges().size());
    const double each = all / 2 / static_cast<double>(graph.edges().size());
    for (const auto& [i, j] : graph.edges()) {
      CHECK(pairs[{i, j}] == pairs[{j, i}]);
      if (poisson) CHECK(std::fabs(pairs[{i, j}] - each) < 4 * std::sqrt(each));
      CHECK(pairs[{i, j}] > each / 3);
      CHECK(pairs[{i, j}] < each * 2);
    }
  }
}

// A clock that ticks ten times while one averaging is under way: without a bound nine of ten would
// still be to do when the last gradient is.
TEST_CASE("averagings do not pile up where links are slower than an edge's clock") {
  const AlgorithmCase c = drifting(
      std::string("{name: ad-psgd, graph: ring, pairing: poisson, rate: 5") + sgd_optimizer,
      Drift{std::vector<float>(8)}, 100);
  WorldSetup setup = swift(c, 1);
  setup.machine.alpha = Time(2'000'000'000);  // 2 ms, two gradients
  const WorldResult result = ran(run_in_sim(setup, training_of(c)));
  std::uint64_t last_gradient = 0;
  for (const auto& steps : result.steps) last_gradient = std::max(last_gradient, steps.back());
  CHECK(static_cast<double>(result.end) < 1.5 * static_cast<double>(last_gradient));
}

TEST_CASE("gradients of workers that read x itself are counted and paid as others") {
  AlgorithmCase c = unlike(std::string("{name: a2cid2, racy_reads: true") + sgd_optimizer, 5, 20);
  const WorldResult racy = ran(run_in_sim(setup_of(c), training_of(c)));
  check_cost_block(racy);
  check_cost_block(ran(run_in_cpu(setup_of(c), training_of(c))));
  c.algorithm = std::string("{name: a2cid2") + sgd_optimizer;
  const WorldResult copied = ran(run_in_sim(setup_of(c), training_of(c)));
  for (std::size_t rank = 0; rank < 5; ++rank)
    CHECK(copied.peaks[rank] - racy.peaks[rank] == 4 * 5);
}

}  // namespace orrery
