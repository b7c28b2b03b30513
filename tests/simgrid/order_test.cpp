#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "tests/simgrid/scripted.hpp"

namespace orrery::sim {
namespace {

TEST_CASE(
    "completions of one instant come in (turn, rank, stream, ordinal) order, however they were "
    "scheduled") {
  std::vector<Key> keys;
  for (const auto turn : std::initializer_list<std::uint8_t>{0, 1, 3})
    for (const std::uint32_t rank : {0U, 1U, 70'000U, 0xff'ffffU})
      for (const auto stream : std::initializer_list<std::uint16_t>{0, 5, 63})
        for (const std::uint64_t ordinal : {0ULL, 7ULL, 0xffff'ffffULL})
          keys.push_back({rank, stream, ordinal, turn});
  std::vector<Key> delivered;
  Scripted client;
  Engine engine(client);
  client.on_due = [&](Time, const Key& key, std::uint64_t) { delivered.push_back(key); };
  std::vector<Key> expected;
  for (std::uint64_t trial = 0; trial < 20; ++trial) {
    auto shuffled = keys;
    for (std::size_t i = shuffled.size(); i > 1; --i) {
      std::swap(shuffled[i - 1], shuffled[mix(trial * 1000 + i) % i]);
    }
    for (const Key& key : shuffled) engine.schedule(Time(1000 + trial), key, 0);
    expected.insert(expected.end(), keys.begin(), keys.end());
  }
  engine.run();
  CHECK(delivered == expected);
}

TEST_CASE("the queue gives entries back in order under any mix of pushes and pops") {
  Scripted client;
  Engine engine(client);
  std::uint64_t last = 0, seed = 0, delivered = 0;
  client.on_due = [&](Time now, const Key&, std::uint64_t) {
    CHECK(now.picoseconds >= last);
    last = now.picoseconds;
    ++delivered;
    for (std::uint64_t n = mix(++seed) % 3; n > 0 && seed < 20'000;
         --n) {  // none, one or two successors
      engine.schedule(now + Time(mix(++seed) % 1000), Key{0, 0, seed}, 0);
    }
  };
  for (; seed < 100; ++seed) engine.schedule(Time(mix(seed) % 1000), Key{0, 0, seed}, 0);
  engine.run();
  CHECK(delivered == engine.counters().completions);
  CHECK(delivered > 1000);
}

TEST_CASE(
    "no actor runs before every completion of the instant, also those scheduled by one, and actors "
    "go by rank") {
  Scripted client;
  Engine engine(client);
  std::string log;
  std::vector<ActorId> actors;
  client.on_due = [&](Time, const Key& key, std::uint64_t payload) {
    log += "c" + std::to_string(key.rank) + " ";
    if (payload == 1)
      engine.schedule(Time(500), Key{9, 0, 0}, 0);  // scheduled at this very instant
    for (const ActorId actor : actors) engine.make_runnable(actor);
  };
  const auto program = [&](std::string name) {
    return [&, name] {
      engine.block();
      log += name + " ";
    };
  };
  // Spawned and scheduled in an order that is not theirs.
  actors.push_back(engine.spawn(2, 0, program("a20")));
  actors.push_back(engine.spawn(0, 1, program("a01")));
  actors.push_back(engine.spawn(1, 0, program("a10")));
  actors.push_back(engine.spawn(0, 0, program("a00")));
  engine.schedule(Time(500), Key{3, 0, 0}, 0);
  engine.schedule(Time(500), Key{1, 0, 0}, 1);
  engine.run();
  CHECK(log == "c1 c3 c9 a00 a01 a10 a20 ");
}

TEST_CASE("an actor that schedules at this instant sees it delivered before any actor runs again") {
  Scripted client;
  Engine engine(client);
  std::string log;
  ActorId first, second;
  client.on_due = [&](Time, const Key&, std::uint64_t) {
    log += "c ";
    engine.make_runnable(first);
  };
  first = engine.spawn(0, 0, [&] {
    log += "a0 ";
    engine.schedule(engine.now(), Key{}, 0);
    engine.make_runnable(first);  // it is running: no effect
    engine.block();
    log += "a0 ";
    engine.make_runnable(second);
  });
  second = engine.spawn(1, 0, [&] {
    log += "a1 ";
    engine.block();
    log += "a1 ";
  });
  engine.run();
  CHECK(log == "a0 a1 c a0 a1 ");
  CHECK(engine.now() == Time(0));
}

TEST_CASE(
    "a flow and entries of the queue that are due at one instant come in key order before any "
    "actor") {
  Scripted client;
  Engine engine(client);
  const LinkId link = engine.add_link(BytesPerSecond(50e9)),
               other = engine.add_link(BytesPerSecond(30e9)),
               third = engine.add_link(BytesPerSecond(7e9));
  std::string log;
  std::uint64_t round = 0;
  ActorId actor;
  client.on_due = [&](Time, const Key& key, std::uint64_t) {
    log += std::to_string(key.rank);
    engine.make_runnable(actor);
  };
  std::string expected;
  actor = engine.spawn(0, 0, [&] {
    for (round = 0; round < 200; ++round) {
      // All of it takes 10 us, at starts whose sums are no round numbers of SimGrid's clock.
      const Time end = engine.now() + Time(10'000'000);
      engine.schedule(end, Key{5, 0, 0}, 0);
      engine.start_flow(std::span(&link, 1), Bytes(500'000), Key{4, 0, 0}, 0);
      engine.schedule(end, Key{3, 0, 0}, 0);
      engine.start_flow(std::span(&other, 1), Bytes(300'000), Key{2, 0, 0}, 0);
      engine.schedule(end, Key{1, 0, 0}, 0);
      engine.start_flow(std::span(&third, 1), Bytes(70'000), Key{6, 0, 0}, 0);
      engine.block();
      log += "a";
      expected += "123456a";
      CHECK(engine.now() == end);
      engine.schedule(engine.now() + Time(1 + mix(round) % 333'333'333), Key{7, 0, 0}, 0);
      engine.block();
      log += "a";
      expected += "7a";
    }
  });
  engine.run();
  CHECK(log == expected);
}

TEST_CASE(
    "a flow that another one delays still comes before a later key of the instant it ends at") {
  Scripted client;
  Engine engine(client);
  const LinkId link = engine.add_link(BytesPerSecond(100e9));
  std::string log;
  client.on_due = [&](Time now, const Key& key, std::uint64_t what) {
    if (what == 1) {  // SimGrid has counted on the first flow's end at 2 us
      engine.start_flow(std::span(&link, 1), Bytes(1'000'000), Key{9, 0, 0}, 0);
    } else {
      log += std::to_string(key.rank) + "@" + std::to_string(now.picoseconds) + " ";
    }
  };
  engine.start_flow(std::span(&link, 1), Bytes(200'000), Key{2, 0, 0}, 0);
  engine.schedule(Time(1'000'000), Key{}, 1);
  engine.schedule(Time(3'000'000), Key{5, 0, 0}, 0);
  engine.schedule(Time(3'000'000), Key{1, 0, 0}, 0);
  engine.run();
  CHECK(log == "1@3000000 2@3000000 5@3000000 9@12000000 ");
}

TEST_CASE("long chains without actors stay exact and never enter SimGrid") {
  Scripted client;
  Engine engine(client);
  constexpr std::uint64_t links = 300'000, period = 1'000'400'000'003;  // about 83 hours
  std::uint64_t left = links;
  Time last;
  client.on_due = [&](Time now, const Key& key, std::uint64_t) {
    last = now;
    if (--left > 0) engine.schedule(now + Time(period), key, 0);
  };
  engine.schedule(Time(period), Key{}, 0);
  engine.run();
  CHECK(last == Time(period) * links);
  CHECK(engine.now() == last);
  CHECK(engine.counters().rounds <= 2);
}

TEST_CASE(
    "a flow after a long chain starts at the chain's exact end, and entries of the queue pass "
    "beside live "
    "flows") {
  Scripted client;
  Engine engine(client);
  const LinkId link = engine.add_link(BytesPerSecond(50e9));
  std::uint64_t left = 10'000;
  Time flow_end, chain_end;
  client.on_due = [&](Time now, const Key& key, std::uint64_t what) {
    if (what == 1) {
      flow_end = now;
    } else if (--left > 0) {
      engine.schedule(now + Time(left > 5'000 ? 700'000'000'007 : 11), key, 0);
    } else {
      chain_end = now;
    }
    if (left == 5'000 && what == 0)
      engine.start_flow(std::span(&link, 1), Bytes(1'000'000), Key{1, 0, 0}, 1);
  };
  engine.schedule(Time(0), Key{}, 0);
  engine.run();
  const Time start = Time(700'000'000'007) * 4'999;  // 3,500 s
  CHECK(flow_end == start + Time(20'000'000));
  CHECK(chain_end == start + Time(11) * 5'000);
  CHECK(engine.counters().rounds < 10);
}

std::string eventful_run() {
  Scripted client;
  Engine engine(client);
  Fingerprint order;
  std::vector<LinkId> links;
  for (int i = 0; i < 16; ++i)
    links.push_back(engine.add_link(BytesPerSecond(10e9 + 1e9 * (i % 5))));
  std::vector<ActorId> actors;
  client.on_due = [&](Time now, const Key& key, std::uint64_t payload) {
    order.add(now.picoseconds);
    order.add(key.rank);
    order.add(key.ordinal);
    engine.make_runnable(actors[payload]);
  };
  for (std::uint32_t rank = 0; rank < 32; ++rank) {
    actors.push_back(engine.spawn(rank, 0, [&, rank] {
      for (std::uint64_t i = 0; i < 60; ++i) {
        const std::uint64_t r = mix(rank * 1000 + i);
        const Key key{rank, 0, i};
        if (r % 2 == 0) {
          const LinkId path[] = {links[r / 2 % 16], links[(r / 2 + 1 + r / 64 % 15) % 16]};
          engine.start_flow(path, Bytes(static_cast<std::int64_t>(1 + r % 100'000)), key, rank);
        } else {
          engine.schedule(engine.now() + Time(r % 10'000'000), key, rank);
        }
        engine.block();
        order.add(rank);
      }
    }));
  }
  engine.run();
  order.add(engine.now().picoseconds);
  return std::to_string(order.value);
}

TEST_CASE("the same calls give the same order and the same times in another process") {
  const std::string once = in_child(eventful_run), again = in_child(eventful_run);
  CHECK(once != "");
  CHECK(once == again);
}

}  // namespace
}  // namespace orrery::sim
