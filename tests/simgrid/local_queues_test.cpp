// Neighbourhoods that run ahead of each other, as far as what they await lets them.
#include "sim/simgrid/local_queues.hpp"

#include <doctest/doctest.h>

#include <map>
#include <string>
#include <vector>

#include "backend/core/error.hpp"
#include "tests/simgrid/scripted.hpp"

namespace orrery::sim {
namespace {

std::uint64_t key_of(std::uint32_t rank) { return Key{rank, 0, 1}.packed(); }

// What is awaited takes so much longer each time it is asked about; nothing once it has come.
struct Awaiting : Scripted {
  std::map<std::uint64_t, Time> longer;
  Time awaited(std::uint64_t payload) override { return longer[payload]; }
};

// "payload@time" of all that is left, in the order of delivery.
std::string all_of(LocalQueues& queues) {
  std::string all;
  std::uint64_t now = 0;
  while (queues.advance(now))
    for (QueueEntry entry; queues.take(entry);)
      all += std::to_string(entry.payload) + "@" + std::to_string(now) + " ";
  return all;
}

TEST_CASE("who awaits nobody goes on to its end, the first in time first") {
  Awaiting client;
  LocalQueues queues(client, {0, 0, 1});
  queues.push({30, key_of(2), 5});
  queues.push({10, key_of(2), 4});
  queues.push({40, key_of(1), 3});
  queues.push({20, key_of(0), 1});
  queues.push({40, key_of(0), 2});
  CHECK(all_of(queues) == "4@10 5@30 1@20 2@40 3@40 ");
}

TEST_CASE("who awaits another goes on until that could reach it, and no further") {
  Awaiting client;
  client.longer[9] = Time(100);
  LocalQueues queues(client, {0, 1});
  queues.push({10, key_of(0), 1});
  queues.push({50, key_of(0), 2});
  queues.push({60, key_of(0), 3});
  queues.push({20, key_of(1), 4});
  queues.push({70, key_of(1), 5});
  queues.await(0, 55, 9);
  // At 55 rank 1 has more to say, as long as it is not beyond 55 itself.
  CHECK(all_of(queues) == "1@10 2@50 4@20 5@70 3@60 ");
}

TEST_CASE("what came is awaited no longer, and what comes must not be in the past") {
  Awaiting client;
  LocalQueues queues(client, {0, 1});
  queues.push({10, key_of(0), 1});
  queues.push({90, key_of(0), 2});
  queues.await(0, 55, 9);
  CHECK(all_of(queues) == "1@10 2@90 ");
  CHECK_THROWS_AS(queues.push({89, key_of(0), 3}), Error);
  queues.push({90, key_of(0), 4});
  queues.push({5, key_of(1), 5});
  CHECK(all_of(queues) == "4@90 5@5 ");
}

}  // namespace
}  // namespace orrery::sim
