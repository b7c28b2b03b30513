// Links as slow as those of a cluster: the simulated clock shows the formula, the CPU world waits
// for it, and both move the same bytes with the same values.
#include <doctest/doctest.h>

#include "tests/support/worlds.hpp"

using namespace orrery;

namespace {

constexpr Throttle slow{Seconds(2e-4), BytesPerSecond(4e6)};
constexpr std::int64_t elements = 240;  // divides by 2 to 5 ranks

WorldSetup throttled(int ranks) {
  WorldSetup setup = setup_for(ranks);
  setup.throttle = slow;
  return setup;
}

Tensor numbered(Rank& rank, Stream& stream, std::int64_t count) {
  const Tensor x = toy::vector(rank, stream, count, "x");
  toy::fill(rank, stream, x, 1.0 + rank.id());
  return x;
}

// One collective of each kind, one after the other. Notes what came of them.
void all_collectives(Rank& rank, RankNotes& notes) {
  Stream& stream = rank.stream("comm");
  Channel& channel = rank.channel(Axis::replicate, "slow");
  const std::int64_t n = rank.size(Axis::replicate);
  const Tensor whole = numbered(rank, stream, elements),
               part = numbered(rank, stream, elements / n),
               other = numbered(rank, stream, elements);
  stream.all_reduce(whole, Reduce::sum, channel);
  stream.reduce_scatter(part, whole, Reduce::sum, channel);
  stream.all_gather(whole, part, channel);
  stream.all_to_all(other, whole, channel);
  stream.broadcast(other, 0, channel);
  for (const Tensor* tensor : {&whole, &part, &other})
    for (const double value : rank.read(*tensor)) notes.values.push_back(value);
}

// From rank 0 to rank 1, then in both directions at once.
void all_pairs(Rank& rank, RankNotes& notes) {
  Stream& out = rank.stream("out");
  Channel& next = rank.edge(Axis::replicate, +1, "edge");
  Channel& both = rank.channel(Axis::replicate, "swap");
  const Tensor mine = numbered(rank, out, elements), theirs = numbered(rank, out, elements);
  if (rank.id() == 0)
    out.send(mine, next);
  else if (rank.id() == 1)
    out.receive(theirs, next);
  out.exchange(mine, theirs, 1 - rank.id(), both);
  for (const double value : rank.read(theirs)) notes.values.push_back(value);
}

Time total_of(const std::vector<Collective>& kinds, int ranks) {
  Time total;
  for (const Collective kind : kinds)
    total = total + throttled_time(slow, kind, Bytes(4 * elements), ranks);
  return total;
}

void agree(const WorldResult& sim, const WorldResult& cpu, Time expected) {
  REQUIRE_MESSAGE(!sim.error, why(sim));
  REQUIRE_MESSAGE(!cpu.error, why(cpu));
  CHECK(sim.end == expected.picoseconds);
  CHECK(cpu.end >= sim.end);
  CHECK(sim.noted() == cpu.noted());
  CHECK(sim.channels == cpu.channels);
  CHECK(sim.peaks == cpu.peaks);
}

}  // namespace

TEST_CASE("collectives over throttled links take the formula in sim, at least that on the CPU") {
  for (int ranks = 2; ranks <= 5; ++ranks) {
    CAPTURE(ranks);
    const Time expected =
        total_of({Collective::all_reduce, Collective::reduce_scatter, Collective::all_gather,
                  Collective::all_to_all, Collective::broadcast},
                 ranks);
    agree(run_in_sim(throttled(ranks), all_collectives),
          run_in_cpu(throttled(ranks), all_collectives), expected);
  }
}

TEST_CASE("transfers between two ranks over a throttled link take the formula in both worlds") {
  const Time expected = total_of({Collective::send, Collective::exchange}, 2);
  agree(run_in_sim(throttled(2), all_pairs), run_in_cpu(throttled(2), all_pairs), expected);
}

TEST_CASE("a throttle faster than the machine's links changes nothing") {
  WorldSetup setup = setup_for(3);
  const WorldResult plain = run_in_sim(setup, all_collectives);
  setup.throttle = Throttle{Seconds(0), BytesPerSecond(1e12)};
  const WorldResult fast = run_in_sim(setup, all_collectives);
  CHECK(plain.end > 0);
  CHECK(fast.end == plain.end);
}

TEST_CASE("throttled links are refused beside flows") {
  WorldSetup setup = throttled(2);
  setup.fidelity = Fidelity::flow;
  CHECK_THROWS_WITH_AS(run_in_sim(setup, all_collectives), doctest::Contains("analytic"),
                       std::runtime_error);
}
