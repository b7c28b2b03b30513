// The tables of bandwidths that DiLoCo and its kind need.
#include <doctest/doctest.h>

#include <cmath>

#include "backend/core/text.hpp"
#include "scenarios/published/bandwidth_case.hpp"
#include "scenarios/published/prediction.hpp"
#include "tests/published/case_files.hpp"

namespace orrery {
namespace {

const std::string root = ORRERY_SOURCE_DIR;

// How many points of the grid lie between the predicted bandwidth and the nearest to the printed.
std::vector<int> grid_steps(const char* file_name) {
  const MeasuredFile file = read_measured_file(root + "/scenarios/published/" + file_name);
  const Predictor predictor(root);
  const auto point = [](double gbit_s) {
    int nearest = 0;
    for (int i = 0; i < bandwidth_grid_points; ++i)
      if (std::fabs(std::log(bandwidth_grid_gbit_s(i) / gbit_s)) <
          std::fabs(std::log(bandwidth_grid_gbit_s(nearest) / gbit_s)))
        nearest = i;
    return nearest;
  };
  std::vector<int> steps;
  for (const MeasuredCase& c : file.cases) {
    const Prediction p = predictor.predict(file, c);
    REQUIRE_MESSAGE(p.skipped.empty(), c.id << ": " << p.skipped);
    steps.push_back(point(*p.predicted) - point(p.measured));
  }
  return steps;
}

int within(const std::vector<int>& steps, int most) {
  int count = 0;
  for (const int each : steps) count += std::abs(each) <= most ? 1 : 0;
  return count;
}

}  // namespace

TEST_CASE(
    "the whole table of Streaming DiLoCo is met within a step of its grid, five in six exactly") {
  const std::vector<int> steps = grid_steps("streaming-diloco.yaml");
  CHECK(steps.size() == 75);
  CHECK(within(steps, 0) >= 63);
  CHECK(within(steps, 1) == 75);
}

TEST_CASE(
    "the table of DiLoCo's scaling laws is met within a step of its grid, half of it exactly") {
  const std::vector<int> steps = grid_steps("diloco-scaling-laws.yaml");
  CHECK(steps.size() == 41);
  CHECK(within(steps, 0) >= 21);
  CHECK(within(steps, 1) == 41);
}

TEST_CASE("the bandwidth of a utilisation is the grid's last before one that reaches it") {
  const BandwidthCase c{.parameters = 1e9, .step_s = 0.5, .layers = 24, .sync_every = 100};
  for (const double utilization : {0.5, 0.8, 0.95, 0.99}) {
    CAPTURE(utilization);
    const double printed = needed_gbit_s(c, utilization);
    int point = 0;
    while (bandwidth_grid_gbit_s(point) < printed) ++point;
    CHECK(bandwidth_grid_gbit_s(point) == printed);
    CHECK(compute_utilization(c, bandwidth_grid_gbit_s(point) * 1e9) < utilization);
    CHECK(compute_utilization(c, bandwidth_grid_gbit_s(point + 1) * 1e9) >= utilization);
  }
  CHECK(needed_gbit_s(c, 0.01) == bandwidth_grid_gbit_s(0));
  CHECK(needed_gbit_s({.parameters = 1e15, .step_s = 0.5, .layers = 24}, 0.5) ==
        bandwidth_grid_gbit_s(bandwidth_grid_points - 1));
}

TEST_CASE(
    "an exchange that is not stated, or of an architecture that nobody knows, is not scored") {
  const auto skipped = [](const std::string& keys) {
    return prediction_of(
               "kind: algo_bandwidth, step_s: 1, compute_utilization: 0.5, "
               "bandwidth_gbit_s: 10, " +
               keys)
        .skipped;
  };
  CHECK(skipped("params: 1e9, layers: 4, sync_every: 10").empty());
  for (const char* keys : {"params: 1e9, layers: 4, sync_every: 0",
                           "params: 0, layers: 4, "
                           "sync_every: 10",
                           "params: 1e9, layers: 0, sync_every: 10"})
    CHECK(skipped(keys) == "the exchange is not stated");
  CHECK(skipped("params: 1e9, sync_every: 10, arch: Llama3").empty());
  CHECK(skipped("params: 1e9, sync_every: 10, arch: Foo") == "the layers of 'Foo' are not known");
}

TEST_CASE("DiLoCo's utilisation over the internet is that of INTELLECT-1 within five points") {
  const MeasuredFile file = read_measured_file(root + "/scenarios/published/intellect1.yaml");
  const Predictor predictor(root);
  for (const MeasuredCase& c : file.cases) {
    const Prediction p = predictor.predict(file, c);
    REQUIRE_MESSAGE(p.skipped.empty(), c.id << ": " << p.skipped);
    CHECK(std::fabs(*p.predicted - p.measured) < 0.05);
  }
}

TEST_CASE("utilisation is 1 on an endless link, and what the link allows on a slow one") {
  BandwidthCase c{.parameters = 1e9, .step_s = 0.1, .layers = 24, .sync_every = 100};
  CHECK(compute_utilization(c, 1e18) == doctest::Approx(1));
  CHECK(compute_utilization(c, 1e6) == doctest::Approx(10 / (16e9 / 1e6)).epsilon(1e-3));
  c.overlap_steps = 1;
  CHECK(compute_utilization(c, 3e11) == doctest::Approx(1));  // 53 ms in a step of 100 ms
}

}  // namespace orrery
