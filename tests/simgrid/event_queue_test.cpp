#include "sim/simgrid/event_queue.hpp"

#include <doctest/doctest.h>

#include <set>
#include <vector>

#include "tests/simgrid/scripted.hpp"

namespace orrery::sim {
namespace {

// How far ahead of now entries are scheduled, by what a simulation may do.
struct Spread {
  const char* name;
  std::uint64_t (*distance)(std::uint64_t random);
};
constexpr Spread spreads[] = {
    {"evenly", [](std::uint64_t r) { return r % 100'000; }},
    {"all at now", [](std::uint64_t) { return std::uint64_t{0}; }},
    {"in lockstep", [](std::uint64_t r) { return (r % 4) * 1'000'000; }},
    {"near, and some very far",
     [](std::uint64_t r) {
       return r % 100 == 0 ? (r >> 8) % (std::uint64_t{1} << 50) : (r >> 8) % 1'000;
     }},
    {"half far off, half near",
     [](std::uint64_t r) { return r % 2 == 0 ? std::uint64_t{1'000'000'000'000} : r % 50'000; }},
    {"on all scales", [](std::uint64_t r) { return std::uint64_t{1} << (r % 60); }},
};

TEST_CASE("a queue is a set in (time, key) order, whatever comes and however much of it") {
  for (const Spread& spread : spreads) {
    CAPTURE(spread.name);
    for (const std::size_t usual : {3u, 100u, 5'000u}) {
      CAPTURE(usual);
      Scripted client;
      EventQueue queue(client);
      std::set<std::pair<std::uint64_t, std::uint64_t>> expected;
      std::uint64_t now = 0;
      bool same = true;
      for (std::uint64_t i = 0; i < 20'000 && same; ++i) {
        const std::uint64_t random = mix(i);
        if (expected.empty() || random % 8 < (expected.size() < usual ? 6u : 3u)) {
          const std::uint64_t distance = spread.distance(mix(random));
          const std::uint64_t time = std::min(now + distance, time_never.picoseconds - 1);
          const std::uint64_t key = mix(i) << 20 | i;  // in no order, each its own
          queue.push({time, key, i});
          expected.emplace(time, key);
        } else {
          const QueueEntry first = queue.top();
          same = std::pair(first.time, first.key) == *expected.begin() &&
                 queue.take().payload == first.payload;
          now = std::min(first.time, std::uint64_t{1} << 61);
          expected.erase(expected.begin());
        }
        same = same && queue.size() == expected.size() && queue.empty() == expected.empty();
      }
      CHECK(same);
      queue.clear();
      CHECK(queue.empty());
      queue.push({7, 1, 2});
      CHECK(queue.top().payload == 2);
    }
  }
}

// Takes note of who was announced, and how often.
struct Announced : Scripted {
  std::vector<int> levels;  // by payload: one more than the last that came
  void approaches(int level, std::uint64_t payload) override {
    if (levels[payload] != 0) in_order = in_order && levels[payload] == level + 2;
    levels[payload] = level + 1;
  }
  bool in_order = true;
};

TEST_CASE("what is scheduled long ahead is announced at every level, from the farthest to 0") {
  constexpr std::uint64_t ranks = 1'000, each = 20;
  Announced client;
  client.levels.resize(ranks * each);
  EventQueue queue(client);
  for (std::uint64_t r = 0; r < ranks; ++r) queue.push({1'000 + mix(r) % 1'000, r, r});
  std::uint64_t announced = 0;
  for (std::uint64_t taken = 0; taken < ranks * each; ++taken) {
    const std::uint64_t now = queue.top().time;
    const std::uint64_t payload = queue.take().payload;
    announced += client.levels[payload] == 1;
    if (const std::uint64_t next = payload + ranks; next < ranks * each)
      queue.push({now + 1'000 + mix(next) % 1'000, next, next});
  }
  CHECK(client.in_order);
  // Of an exact order nothing is missed, but for the first few and what came when it was due soon.
  CHECK(announced > ranks * each * 9 / 10);
}

}  // namespace
}  // namespace orrery::sim
