// Fully sharded data parallelism's memory, by how the program waits
// (tests/support/fsdp_program.hpp), on 4 ranks: the shards are 2 x 12 x 256 = 6,144 elements.
// tests/parity/toy_fsdp_test.cpp has the same figures in two worlds.
#include <doctest/doctest.h>

#include "tests/backend/fake_device.hpp"
#include "tests/support/fsdp_program.hpp"

using namespace orrery;

namespace {

// The peak in elements, which every rank must agree on.
std::int64_t peak(FsdpWaits waits) {
  WorldOptions options;
  options.grid.set(Axis::shard, 4);
  FakeWorld world(options);
  std::vector<std::unique_ptr<Fsdp>> programs;
  for (int id = 0; id < 4; ++id) {
    programs.push_back(std::make_unique<Fsdp>(world.rank(id), waits));
    programs.back()->step();
  }
  for (int id = 0; id < 4; ++id)
    REQUIRE(world.rank(id).ledger(Place::device).peak() ==
            world.rank().ledger(Place::device).peak());
  return world.rank().ledger(Place::device).peak().value / 4;
}

constexpr std::int64_t shards = 2 * 12 * 256;

}  // namespace

TEST_CASE("FSDP whose gathers never wait for the free keeps every gathered unit: 30,720 elements") {
  CHECK(peak({false, 0}) == shards + (11 + 12) * 1024 + 1024);
  CHECK(peak({false, 0}) == 30'720);
}

TEST_CASE("FSDP whose gathers wait for the free two units back peaks at 10,240 elements") {
  CHECK(peak({true, 0}) == shards + 3 * 1024 + 1024);
  CHECK(peak({true, 0}) == 10'240);
}

TEST_CASE("FSDP whose gradients are awaited one unit late peaks at 11,264 elements") {
  CHECK(peak({true, 1}) == shards + 3 * 1024 + 2 * 1024);
  CHECK(peak({true, 1}) == 11'264);
}

TEST_CASE("FSDP whose gradients are never awaited keeps all twelve: 21,504 elements") {
  CHECK(peak({true, std::nullopt}) == shards + 3 * 1024 + 12 * 1024);
  CHECK(peak({true, std::nullopt}) == 21'504);
}
