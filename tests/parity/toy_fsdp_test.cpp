// The memory peak of fully sharded data parallelism on 4 ranks, by how the program waits: the same
// number in both worlds, which time cannot change.
#include <doctest/doctest.h>

#include "tests/support/fsdp_program.hpp"
#include "tests/support/worlds.hpp"

using namespace orrery;

namespace {

SharedProgram fsdp(FsdpWaits waits) {
  return [waits](Rank& rank, RankNotes& notes) {
    Fsdp program(rank, waits);
    program.step();
    notes.values.push_back(program.last_gradient());
  };
}

void check(const WorldResult& result, std::int64_t elements) {
  REQUIRE_MESSAGE(!result.error, why(result));
  CHECK(result.peaks == std::vector<std::int64_t>(4, 4 * elements));
  CHECK(result.noted() == std::vector(4, Fsdp::units - 1.0));
}

// On links of two speeds in sim, so that communication is hidden or exposed, and on the CPU; with
// the host far ahead of its device, and with pauses in which the device ends all it was given.
void check_peak(FsdpWaits waits, std::int64_t elements) {
  WorldSetup setup = setup_for(4, Axis::shard);
  for (const double pause : {0.0, 5e-4}) {
    waits.pause = Seconds(pause);
    for (const double bandwidth : {1e8, 1e12}) {
      setup.machine.bandwidth = BytesPerSecond(bandwidth);
      check(run_in_sim(setup, fsdp(waits)), elements);
    }
    check(run_in_cpu(setup, fsdp(waits)), elements);
  }
}

}  // namespace

TEST_CASE("FSDP that waits for everything peaks at 10,240 elements in both worlds") {
  check_peak({true, 0}, 10'240);
}
TEST_CASE("FSDP whose gathers never wait for the free peaks at 30,720 elements in both worlds") {
  check_peak({false, 0}, 30'720);
}
TEST_CASE("FSDP whose gradients are awaited late peaks at 11,264 elements in both worlds") {
  check_peak({true, 1}, 11'264);
}
TEST_CASE("FSDP whose gradients are never awaited peaks at 21,504 elements in both worlds") {
  check_peak({true, std::nullopt}, 21'504);
}
