#include "calibration/fit.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <set>

#include "backend/core/error.hpp"
#include "tests/calibration/planted.hpp"
#include "tests/support/near.hpp"

using namespace orrery;

TEST_CASE("the median and the spread of repetitions are those of the definitions") {
  CHECK(median(std::vector<double>{3, 1, 2}) == 2);
  CHECK(median(std::vector<double>{4, 1, 2, 3}) == 2.5);
  CHECK(spread(std::vector<double>{7}) == 0);
  CHECK(spread(std::vector<double>{8, 10, 14}) == doctest::Approx((0.2 + 0.4) / 3));
}

TEST_CASE("figures of errors are those of the definitions") {
  const std::vector<double> errors{0.1, -0.2, 0.3, 0, 0, 0, 0, 0, 0, 0};
  const MeasuredErrorSpec e = error_of(errors, 40, 0.05);
  CHECK(e.points == 40);
  CHECK(e.held_back == 10);
  CHECK(e.mean_abs == doctest::Approx(0.06));
  CHECK(e.max_abs == 0.3);
  CHECK(e.p90 == 0.2);
  CHECK(e.bias == doctest::Approx(0.02));
  CHECK(e.spread == 0.05);
  CHECK(error_of({}, 3, 0.1).held_back == 0);
}

TEST_CASE("a planted machine is recovered: every kernel takes its work over the rate") {
  for (const bool quick : {true, false}) {
    const auto tables = kernel_tables(planted_machine(quick).kernels);
    std::set<std::string> classes;
    for (const MeasuredTableSpec& table : tables) {
      CAPTURE(table.kernels);
      classes.insert(table.kernels);
      std::vector<double> at;
      for (const MeasuredAxisSpec& axis : table.axes)
        at.push_back(std::sqrt(axis.at.front() * axis.at.back()) * 1.01);
      const double work = work_at(table.axes, at);
      CHECK(read_table(table, at, work).time.value ==
            near(work / planted_rate * static_cast<double>(table.busy), 2e-3));
      REQUIRE(table.error);
      CHECK(table.error->max_abs < 2e-3);  // picoseconds of the smallest points
      CHECK(table.error->spread == doctest::Approx(0.2 / 3));
    }
    CHECK(tables.size() == 2 * classes.size());
  }
}

TEST_CASE("an error planted in the points held back is reported, with its sign") {
  for (const MeasuredTableSpec& table : kernel_tables(planted_machine(false, 1.25).kernels)) {
    CAPTURE(table.kernels);
    if (table.error->held_back == 0) continue;
    // The table says 1 where 1.25 was measured.
    CHECK(table.error->bias == near(-0.2, 5e-3));
    CHECK(table.error->mean_abs == near(0.2, 5e-3));
    CHECK(table.error->p90 == near(0.2, 5e-3));
  }
}

TEST_CASE("points that leave a hole in the grid are refused") {
  std::vector<KernelSamples> samples = planted_machine(true).kernels;
  samples.erase(samples.begin());
  CHECK_THROWS_AS(kernel_tables(samples), Error);
}

TEST_CASE("the table of a collective has the sizes measured, and its error where one was kept") {
  std::vector<CollectiveSamples> samples{
      {Collective::send, 2, Bytes(4000), false, {4e-6}},
      {Collective::send, 2, Bytes(1000), false, {1e-6, 3e-6, 1e-6}},
      {Collective::send, 2, Bytes(2000), true, {1e-6}},
  };
  const auto tables = collective_tables(samples);
  REQUIRE(tables.size() == 1);
  CHECK(tables[0].operation == "send");
  CHECK(tables[0].sizes == std::vector<Bytes>{Bytes(1000), Bytes(4000)});
  CHECK(tables[0].times == std::vector<Seconds>{Seconds(1e-6), Seconds(4e-6)});
  CHECK(tables[0].error->held_back == 1);
  CHECK(tables[0].error->bias == doctest::Approx(1.0));  // 2 us said, 1 us measured
}

TEST_CASE("a planted GEMM edge is found, with nothing left over") {
  const GemmConstants machine{FlopsPerSecond(1e11), 1, 37, 1, Seconds(0), BytesPerSecond(1e30)};
  std::vector<KernelSamples> samples;
  for (const KernelPoint& point : kernel_points(true)) {
    const auto& d = point.kernel.dims;
    if (point.kernel.op != Op::gemm) continue;
    const double t = gemm_time(d[0], d[1], d[2], Bytes(0), machine).value;
    samples.push_back(
        {"gemm nn fp32",
         1,
         {"m", "n", "k"},
         {static_cast<double>(d[0]), static_cast<double>(d[1]), static_cast<double>(d[2])},
         false,
         {t}});
  }
  const EdgeFit fit = fit_edge(samples, machine);
  CHECK(fit.edge == 37);
  CHECK(fit.residual == 0);
}
