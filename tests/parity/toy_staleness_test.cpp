// Staleness is what the links make it: two ranks descend a quadratic on their own while an exchange
// of known length is under way, then meet halfway with what the other had when it started.
//
// Each minimises x^2 / 2 by steps of 1 us: x <- (1 - r) x. An exchange takes d us, so n = ceil(d)
// steps pass meanwhile, and with q = (1 - r)^n a round makes of (x, y):
//   x' = (q x + y) / 2,  y' = (q y + x) / 2,
// so after k rounds x + y = ((q + 1) / 2)^k (x0 + y0) and x - y = ((q - 1) / 2)^k (x0 - y0).
//
// README.md names the breaks of the product by which it was seen to fail.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/support/worlds.hpp"

using namespace orrery;

namespace {

constexpr double rate = 0.125;
constexpr int rounds = 6;
constexpr double start[2] = {8, -3};

// `snapshot`: exchanges a copy made in order, which both worlds can promise to the bit; otherwise
// the operand itself, while steps go on writing it.
void descend(Rank& rank, RankNotes& notes, bool snapshot) {
  Stream &compute = rank.stream("compute"), &comm = rank.stream("comm");
  Channel& channel = rank.channel(Axis::replicate, "exchange");
  const Tensor x = toy::vector(rank, compute, 4, "x"), mine = toy::vector(rank, compute, 4, "mine"),
               theirs = toy::vector(rank, comm, 4, "theirs");
  const Prepared step =
      toy::kernel(rank, "step", Seconds(1e-6), {Role::update}, [](std::span<const View> v) {
        for (std::int64_t i = 0; i < v[0].elements; ++i)
          toy::floats(v[0])[i] -= static_cast<float>(rate) * toy::floats(v[0])[i];
      });
  const Prepared meet = toy::kernel(
      rank, "meet", Seconds(0), {Role::update, Role::read}, [](std::span<const View> v) {
        for (std::int64_t i = 0; i < v[0].elements; ++i)
          toy::floats(v[0])[i] = 0.5F * (toy::floats(v[0])[i] + toy::floats(v[1])[i]);
      });
  toy::fill(rank, compute, x, start[rank.id()]);
  for (int round = 0; round < rounds; ++round) {
    if (snapshot) compute.copy(x, mine);
    comm.after(compute.record());
    const Event exchanged =
        comm.exchange(snapshot ? mine : x.racy(), theirs, 1 - rank.id(), channel);
    int steps = 0;
    do {
      compute.launch(step, {x.racy()});
      rank.wait(compute.record());
      ++steps;
    } while (!rank.poll(exchanged));
    compute.after(exchanged);
    compute.launch(meet, {x.racy(), theirs});
    notes.values.push_back(steps);
  }
  rank.wait(compute.record());
  notes.values.push_back(rank.read(x)[0]);
}

SharedProgram program(bool snapshot) {
  return [snapshot](Rank& rank, RankNotes& notes) { descend(rank, notes, snapshot); };
}

// An exchange of 16 bytes takes alpha + 16 ns.
WorldSetup links(double microseconds) {
  WorldSetup setup = setup_for(2);
  setup.machine.alpha = Time(static_cast<std::uint64_t>(std::llround(microseconds * 1e6)) - 16'000);
  return setup;
}

double closed_form(int rank, double microseconds) {
  const double q = std::pow(1 - rate, std::ceil(microseconds));
  const double sum = std::pow((q + 1) / 2, rounds) * (start[0] + start[1]);
  const double difference = std::pow((q - 1) / 2, rounds) * (start[0] - start[1]);
  return (sum + (rank == 0 ? difference : -difference)) / 2;
}

void check(const WorldResult& result, double microseconds) {
  CAPTURE(microseconds);
  REQUIRE_MESSAGE(!result.error, why(result));
  for (std::size_t rank = 0; rank < 2; ++rank) {
    const auto& values = result.notes[rank].values;
    for (int round = 0; round < rounds; ++round)
      REQUIRE(values[static_cast<std::size_t>(round)] == std::ceil(microseconds));
    CHECK(values.back() ==
          doctest::Approx(closed_form(static_cast<int>(rank), microseconds)).epsilon(1e-5));
  }
}

}  // namespace

TEST_CASE("the iterate of two ranks is the closed form of how long an exchange takes") {
  for (const double d : {0.5, 1.0, 1.5, 3.0, 3.5, 7.25})
    check(run_in_sim(links(d), program(false)), d);
}

TEST_CASE("a picosecond more than a step makes the exchange one step staler") {
  WorldSetup setup = links(3);
  check(run_in_sim(setup, program(false)), 3);
  setup.machine.alpha = setup.machine.alpha + Time(1);
  check(run_in_sim(setup, program(false)), 3.000001);
}

TEST_CASE("with an ordered copy the CPU, following sim's decisions, has the same stale bits") {
  const WorldResult sim = run_in_sim(recording(links(3.5)), program(true));
  check(sim, 3.5);
  const WorldResult cpu = run_in_cpu(replaying(links(3.5), sim), program(true));
  REQUIRE_MESSAGE(!cpu.error, why(cpu));
  CHECK(cpu.noted() == sim.noted());
  CHECK(cpu.peaks == sim.peaks);
}
