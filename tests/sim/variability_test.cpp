#include "sim/variability.hpp"

#include <doctest/doctest.h>

#include <cmath>

#include "tests/sim/simulate.hpp"
#include "tests/support/near.hpp"

namespace orrery {

namespace {

// Mean and standard deviation of a kernel's factors.
struct Moments {
  double mean = 0, deviation = 0, least = 1e9, most = 0;
};
Moments moments(const sim::Variability& v, double unevenness, int count) {
  Moments m;
  double squares = 0;
  for (int i = 1; i <= count; ++i) {
    const double f = v.factor(3, 1, static_cast<std::uint64_t>(i), unevenness);
    m.mean += f / count;
    squares += f * f / count;
    m.least = std::min(m.least, f);
    m.most = std::max(m.most, f);
  }
  m.deviation = std::sqrt(squares - m.mean * m.mean);
  return m;
}

// Equal ranks that compute 12 x 10 us, then sum their gradients in no time; twice.
void lockstep(Rank& rank) {
  Channel& data = rank.channel(Axis::replicate, "gradients");
  Stream& compute = rank.stream("compute");
  Stream& comm = rank.stream("comm");
  Tensor gradient = rank.allocate(comm, Label::gradients, 1, Dtype::fp32);
  const Prepared kernel = timed(rank, "kernel", 10);
  for (int step = 0; step < 2; ++step) {
    for (int i = 0; i < 12; ++i) compute.launch(kernel);
    comm.after(compute.record());
    comm.all_reduce(gradient, Reduce::mean, data);
    compute.after(comm.record());
    compute.mark_step(step);
  }
}

Simulation equal_ranks(int ranks, sim::Variability variability) {
  Simulation simulation(ranks);
  simulation.machine.alpha = Time{};
  simulation.machine.bandwidth = BytesPerSecond(1e18);
  simulation.options.variability = std::move(variability);
  return simulation;
}

std::string lockstep_report(sim::Variability variability) {
  return in_child([=] {
    Simulation simulation = equal_ranks(4, variability);
    return to_text(simulation.run(lockstep));
  });
}

}  // namespace

TEST_CASE("factors have the stated mean and deviation and never come near zero") {
  const sim::Variability v({}, 0.05, 7);
  const Moments one = moments(v, 1, 20'000);
  CHECK(one.mean == doctest::Approx(1).epsilon(0.002));
  CHECK(one.deviation == near(0.05, 0.02));
  CHECK(one.least > 1 - 3.47 * 0.05);
  CHECK(one.most < 1 + 3.47 * 0.05);
  CHECK(moments(v, 0.5, 20'000).deviation == near(0.025, 0.02));
  CHECK(moments(sim::Variability({}, 0.25, 1), 1, 20'000).least > 0.1);
}

TEST_CASE("a factor is a function of seed, rank, stream and ordinal, and of nothing else") {
  const sim::Variability a({}, 0.1, 1), b({}, 0.1, 2);
  const double first = a.factor(5, 2, 9, 1);
  a.factor(6, 2, 9, 1);
  CHECK(a.factor(5, 2, 9, 1) == first);
  for (const double other :
       {b.factor(5, 2, 9, 1), a.factor(6, 2, 9, 1), a.factor(5, 3, 9, 1), a.factor(5, 2, 10, 1)})
    CHECK(other != first);
}

TEST_CASE("without variability every factor is exactly one") {
  const sim::Variability none;
  CHECK(none.none());
  CHECK(none.factor(0, 0, 1, 1) == 1.0);
  CHECK(sim::Variability::scaled(Time(1234567890123), 1.0) == Time(1234567890123));
}

TEST_CASE("a worker four times slower makes the others idle three quarters of their time") {
  Simulation simulation = equal_ranks(4, sim::Variability({1, 1, 4, 1}, 0, 1));
  const RunReport report = simulation.run(lockstep);
  CHECK(report.end == 960_us);  // 2 steps of 12 x 10 us x 4
  for (std::size_t rank = 0; rank < 4; ++rank) {
    const TimeParts& parts = report.ranks[rank].steps.back().parts;
    CHECK(parts.compute == (rank == 2 ? 960_us : 240_us));
    CHECK(parts.exposed_communication == (rank == 2 ? 0_us : 720_us));
  }
}

TEST_CASE("a sequence of k kernels varies by 1/sqrt(k) of what one kernel does") {
  Simulation simulation(1);
  simulation.options.variability = sim::Variability({}, 0.1, 3);
  double evenness = 0;
  const RunReport report = simulation.run([&](Rank& rank) {
    Stream& compute = rank.stream("compute");
    const Prepared kernel = timed(rank, "kernel", 10);
    const Sequence& block = rank.sequence("block", [&](Sequence& s) {
      for (int i = 0; i < 16; ++i) s.add(kernel, {});
    });
    evenness = block.unevenness();
    compute.launch(block, {});
  });
  CHECK(evenness == doctest::Approx(0.25).epsilon(1e-12));
  const double factor = sim::Variability({}, 0.1, 3).factor(0, 0, 1, 0.25);
  CHECK(report.end == sim::Variability::scaled(160_us, factor));
}

TEST_CASE("same seed, same bytes; another seed, another run") {
  const std::string one = lockstep_report(sim::Variability({}, 0.02, 1));
  CHECK(lockstep_report(sim::Variability({}, 0.02, 1)) == one);
  CHECK(lockstep_report(sim::Variability({}, 0.02, 2)) != one);
}

}  // namespace orrery
