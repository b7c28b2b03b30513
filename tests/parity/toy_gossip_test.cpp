// Gossip on 1 to 9 ranks in both worlds (the program is tests/support/gossip_program.hpp). The
// CPU's side runs under the thread sanitizer in tests/cpu/gossip_test.cpp.
//
// README.md names the breaks of the product by which it was seen to fail.
#include <doctest/doctest.h>

#include "tests/support/gossip_program.hpp"
#include "tests/support/worlds.hpp"

using namespace orrery;
using gossip::Gossip;

namespace {

WorldSetup gossip_setup(int ranks, std::uint64_t seed) {
  WorldSetup setup = setup_for(ranks);
  setup.options.seed = seed;
  setup.machine.host.control_latency = Time(500'000);
  setup.services.emplace_back("matchmaker",
                              [ranks](Service& service) { gossip::matchmaker(service, ranks); });
  return setup;
}

void check(const WorldResult& result, int ranks, Gossip config) {
  REQUIRE_MESSAGE(!result.error, why(result));
  gossip::check(result.notes, ranks, config);
}

void run_everywhere(int ranks, std::uint64_t seed, Gossip config) {
  CAPTURE(ranks);
  CAPTURE(seed);
  const WorldSetup setup = gossip_setup(ranks, seed);
  const WorldResult sim = run_in_sim(setup, gossip::program(config));
  check(sim, ranks, config);
  const WorldResult cpu = run_in_cpu(setup, gossip::program(config));
  check(cpu, ranks, config);
  REQUIRE(sim.peaks == cpu.peaks);
}

void run_for_200_seeds(int first, int last) {
  for (int ranks = first; ranks <= last; ++ranks)
    for (std::uint64_t seed = 1; seed <= 200; ++seed) run_everywhere(ranks, seed, {4, true});
}

}  // namespace

TEST_CASE("gossip ends on 1 to 5 ranks, odd numbers too, and leaves no message, in both worlds") {
  run_for_200_seeds(1, 5);
}
TEST_CASE("gossip ends on 6 or 7 ranks and leaves no message, in both worlds") {
  run_for_200_seeds(6, 7);
}
TEST_CASE("gossip ends on 8 or 9 ranks and leaves no message, in both worlds") {
  run_for_200_seeds(8, 9);
}

TEST_CASE("gossip that only averages keeps the mean, in both worlds") {
  for (int ranks = 2; ranks <= 7; ++ranks)
    for (std::uint64_t seed = 1; seed <= 10; ++seed) run_everywhere(ranks, seed, {6, false});
}

TEST_CASE("gossip simulated twice is the same, trace included; another seed is another run") {
  WorldSetup setup = gossip_setup(5, 3);
  setup.trace = true;
  const WorldResult once = run_in_sim(setup, gossip::program({})),
                    again = run_in_sim(setup, gossip::program({}));
  REQUIRE_FALSE(once.error.has_value());
  CHECK(once.noted() == again.noted());
  CHECK(once.trace == again.trace);
  CHECK(once.end == again.end);
  setup.options.seed = 4;
  CHECK(run_in_sim(setup, gossip::program({})).trace != once.trace);
}
