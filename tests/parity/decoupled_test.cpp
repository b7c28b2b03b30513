// ACCO, delayed updates and weight prediction: their recursions, their stability, and what slow
// workers do to them.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/support/quadratic.hpp"

namespace orrery {
namespace {

AlgorithmCase case_of(const std::string& algorithm, const Quadratic& q, std::int64_t steps,
                      int replicas, int micro_batches) {
  AlgorithmCase c;
  c.algorithm = algorithm;
  c.replicas = replicas;
  c.steps = steps;
  c.micro_batches = micro_batches;
  c.model = quadratic(q);
  return c;
}

WorldResult simulated(const AlgorithmCase& c) {
  WorldResult result = run_in_sim(setup_of(c), training_of(c));
  REQUIRE_MESSAGE(!result.error, why(result));
  return result;
}

// The largest curvature, in hundredths, up to which SGD of rate 1 does not grow; all below it.
double edge_of(const std::string& name, int micro_batches, const std::string& field) {
  Quadratic q;
  q.elements = 240;
  q.curvature = [](int, std::size_t j) { return 0.01F * (static_cast<float>(j) + 0.5F); };
  const AlgorithmCase c =
      case_of("{name: " + name + ", optimizer: {name: sgd, lr: 1}}", q, 1500, 2, micro_batches);
  const std::vector<float> x = state_of(simulated(c), 0, field);
  std::size_t stable = 0;
  while (stable < x.size() && std::fabs(x[stable]) < 1) ++stable;
  for (std::size_t j = stable; j < x.size(); ++j) CHECK(!(std::fabs(x[j]) < 1));
  return 0.01 * static_cast<double>(stable);
}

// Micro-batches that a worker took, from the samples of its steps (2 per micro-batch of the model,
// here 1), noted where they are not as planned.
std::vector<double> samples(const WorldResult& result, std::size_t rank, std::int64_t steps) {
  const auto& values = result.notes.at(rank).values;
  return {values.begin() + 1, values.end() - steps};
}

// By rank: one poll per group of micro-batches, the last of a round is answered yes.
std::vector<std::vector<int>> groups_by_round(const WorldResult& result) {
  std::vector<std::vector<int>> all;
  for (const DecisionLog& log : decisions_from_text(result.decisions, "recorded")) {
    std::vector<int>& rounds = all.emplace_back();
    int here = 0;
    for (const Decision& d : log.decisions) {
      if (d.kind != DecisionKind::poll) continue;
      ++here;
      if (d.result == 0) continue;
      rounds.push_back(here);
      here = 0;
    }
  }
  return all;
}

double total(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return sum;
}

// With `group` micro-batches between two looks at the communication.
void check_recursion(int group) {
  Quadratic q;
  q.curvature = [](int rank, std::size_t) { return rank == 0 ? 1.0F : 0.5F; };
  q.target = [](int rank, std::size_t) { return rank == 0 ? 0.0F : 3.0F; };
  q.seconds = {0.7e-3, 2e-3};
  const double lr = 0.1, mu = 0.5;
  constexpr std::int64_t steps = 6;
  const AlgorithmCase c = case_of(
      "{name: acco, optimizer: {name: momentum, lr: 0.1, momentum: 0.5}}", q, steps, 2, 2 * group);
  const WorldResult result = run_in_sim(recording(setup_of(c)), training_of(c));
  REQUIRE_MESSAGE(!result.error, why(result));
  const std::vector<std::vector<int>> counts = groups_by_round(result);
  REQUIRE(counts[0].size() == 2 * steps);
  CHECK(counts[0] != counts[1]);

  const auto gradients = [&](double x, double& count, std::size_t round) {
    double sum = 0;
    count = 0;
    for (const int rank : {0, 1}) {
      const int n = group * counts[static_cast<std::size_t>(rank)][round];
      sum += n * (static_cast<double>(q.curvature(rank, 0)) * (x - q.target(rank, 0)));
      count += n;
    }
    return sum;
  };
  double theta = 1, m = 0;
  double predicted_count = 2 * group;  // g~^0: a group each
  double predicted_sum = group * (1.0 * (theta - 0) + 0.5 * (theta - 3));
  for (std::size_t t = 0; t < steps; ++t) {
    const double predicted = theta - lr * (mu * m + predicted_sum / predicted_count);
    double count = 0;
    const double sum = gradients(theta, count, 2 * t);
    m = mu * m + (sum + predicted_sum) / (count + predicted_count);
    theta -= lr * m;
    predicted_sum = gradients(predicted, predicted_count, 2 * t + 1);
  }
  for (const std::size_t rank : {0, 1})
    CHECK(state_of(result, rank, "decoupled.parameters")[0] ==
          doctest::Approx(theta).epsilon(1e-6));
  std::int64_t updates = 0;
  const auto& fields = result.notes[0].checkpoints[0].fields;
  std::memcpy(&updates, fields.at("decoupled.optimizer.steps").data(), sizeof updates);
  CHECK(updates == steps);  // an estimate does not count
}

}  // namespace

TEST_CASE("SGD is stable up to lr x curvature of 2, ACCO too, delayed updates up to 1") {
  CHECK(edge_of("ddp", 1, "replica.parameters") == doctest::Approx(2.0).epsilon(0.005));
  CHECK(edge_of("acco", 2, "decoupled.parameters") == doctest::Approx(2.0).epsilon(0.005));
  for (const int micro_batches : {1, 3})  // taken at a time, and weighing as one mean
    CHECK(edge_of("dpu", micro_batches, "decoupled.parameters") ==
          doctest::Approx(1.0).epsilon(0.01));
}

TEST_CASE("weight prediction is stable up to the root of a^2 + a = 1") {
  for (const int micro_batches : {1, 2})
    CHECK(edge_of("weight-prediction", micro_batches, "decoupled.parameters") ==
          doctest::Approx((std::sqrt(5.0) - 1) / 2).epsilon(0.01));
}

TEST_CASE("ACCO's steps are those of its recursion, with momentum and unequal counts") {
  for (const int group : {1, 2, 3}) {
    CAPTURE(group);
    check_recursion(group);
  }
}

TEST_CASE("at a rate of 1 SGD, ACCO and DPU on unlike workers end at the optimum, WP nowhere") {
  Quadratic q;
  q.elements = 6;
  q.curvature = [](int rank, std::size_t j) {
    return 0.1F * static_cast<float>(1 + rank + static_cast<int>(j));
  };
  q.target = [](int rank, std::size_t j) {
    return static_cast<float>(rank * rank) - static_cast<float>(j);
  };
  const auto end = [&](const std::string& name, int micro_batches, const std::string& field) {
    const AlgorithmCase c =
        case_of("{name: " + name + ", optimizer: {name: sgd, lr: 1}}", q, 300, 4, micro_batches);
    return state_of(simulated(c), 2, field);
  };
  for (const std::vector<float>& x :
       {end("ddp", 1, "replica.parameters"), end("acco", 2, "decoupled.parameters"),
        end("dpu", 1, "decoupled.parameters")})
    for (std::size_t j = 0; j < q.elements; ++j) {
      double numerator = 0, denominator = 0;
      for (int i = 0; i < 4; ++i) {
        numerator += static_cast<double>(q.curvature(i, j) * q.target(i, j));
        denominator += static_cast<double>(q.curvature(i, j));
      }
      CHECK(x[j] == doctest::Approx(numerator / denominator).epsilon(1e-5));
    }
  // Its steepest direction has a mean curvature of 0.75, beyond its edge of 0.618.
  CHECK_FALSE(std::fabs(end("weight-prediction", 1, "decoupled.parameters")[5]) < 1e6F);
}

TEST_CASE("one worker of four that is four times slower idles three under DDP, none under ACCO") {
  Quadratic q;
  q.seconds = {1e-3, 1e-3, 1e-3, 4e-3};
  constexpr std::int64_t steps = 100;
  const AlgorithmCase ddp = case_of("{name: ddp, optimizer: {name: sgd, lr: 0.1}}", q, steps, 4, 2);
  const WorldResult slow = simulated(ddp);
  const double slow_end = static_cast<double>(slow.end) * 1e-12;
  for (const std::size_t rank : {0, 1, 2})
    CHECK(1 - steps * 2 * q.seconds[rank] / slow_end == doctest::Approx(0.75).epsilon(0.01));

  const AlgorithmCase acco =
      case_of("{name: acco, optimizer: {name: sgd, lr: 0.1}}", q, steps, 4, 2);
  const WorldResult busy = simulated(acco);
  const double end = static_cast<double>(busy.end) * 1e-12;
  std::vector<double> taken;
  for (std::size_t rank = 0; rank < 4; ++rank) {
    // Where it took as many as planned in each step, nothing is noted: that is the slow worker.
    const std::vector<double> noted = samples(busy, rank, steps);
    taken.push_back(total(noted) +
                    2.0 * static_cast<double>(steps - static_cast<std::int64_t>(noted.size())));
    const double idle = 1 - taken.back() * q.seconds[rank] / end;
    CHECK(idle < 0.01);
  }
  for (const std::size_t rank : {0, 1, 2})
    CHECK(taken[rank] / taken[3] == doctest::Approx(4).epsilon(0.03));
}

TEST_CASE("a link that is slow makes ACCO's batches larger, not its workers idle") {
  Quadratic q;
  q.elements = 4000;
  const AlgorithmCase c = case_of("{name: acco, optimizer: {name: sgd, lr: 0.1}}", q, 10, 4, 2);
  WorldSetup setup = setup_of(c);
  setup.machine.bandwidth = BytesPerSecond(1e7);  // 2 x 3/4 x 16 kB: 2.4 ms a round
  const WorldResult result = run_in_sim(setup, training_of(c));
  REQUIRE_MESSAGE(!result.error, why(result));
  for (const double each : samples(result, 0, c.steps))
    CHECK(each == doctest::Approx(2 * 25).epsilon(0.04));
  CHECK(samples(result, 0, c.steps).size() == 10);
}

}  // namespace orrery
