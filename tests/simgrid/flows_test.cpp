#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/simgrid/lockstep_traffic.hpp"
#include "tests/simgrid/scripted.hpp"

namespace orrery::sim {
namespace {

std::uint64_t distance(std::uint64_t a, std::uint64_t b) { return a > b ? a - b : b - a; }

std::uint64_t duration(std::uint64_t bytes, double bandwidth) {
  return static_cast<std::uint64_t>(std::llround(static_cast<double>(bytes) / bandwidth * 1e12));
}

struct Case {
  std::uint64_t start = 0;
  std::uint64_t bytes = 0;
  std::size_t link = 0;
  std::uint64_t end = 0;
};

// Starts each case at its time over its link alone, and notes when it ends.
void run_cases(Scripted& client, Engine& engine, std::vector<Case>& cases,
               const std::vector<LinkId>& links) {
  constexpr std::uint64_t start = 0, end = 1;
  client.on_due = [&](Time now, const Key& key, std::uint64_t what) {
    Case& c = cases[key.ordinal];
    if (what == start) {
      CHECK(now == Time(c.start));
      engine.start_flow(std::span(&links[c.link], 1), Bytes(static_cast<std::int64_t>(c.bytes)),
                        key, end);
    } else {
      c.end = now.picoseconds;
    }
  };
  for (std::size_t i = 0; i < cases.size(); ++i)
    engine.schedule(Time(cases[i].start), Key{0, 0, i}, start);
  engine.run();
}

std::vector<Case> cases_up_to_4000_seconds() {
  std::vector<Case> cases;
  for (const std::uint64_t start : {0ull, 1'000'000'000'001ull, 100'000'000'000'007ull,
                                    1'234'567'890'123'457ull, 4'000'000'000'000'001ull}) {
    std::uint64_t at = start;
    for (const std::uint64_t bytes :
         {64ull, 1'000ull, 4'097ull, 1'000'003ull, 25'000'000ull, 100'000'000ull}) {
      for (const std::size_t link : {0u, 1u, 2u}) {
        cases.push_back({at, bytes, link, 0});
        at += 20'000'000'011;
      }
    }
  }
  return cases;
}

const std::vector<double> bandwidths = {50e9, 33.3e9, 900e9};

TEST_CASE("an uncontended flow takes size over bandwidth to the picosecond") {
  Scripted client;
  Engine engine(client);
  std::vector<LinkId> links;
  for (const double b : bandwidths) links.push_back(engine.add_link(BytesPerSecond(b)));
  auto cases = cases_up_to_4000_seconds();
  run_cases(client, engine, cases, links);
  for (const Case& c : cases)
    CHECK(distance(c.end - c.start, duration(c.bytes, bandwidths[c.link])) <= 1);
}

TEST_CASE(
    "an uncontended flow is as exact while another flow keeps SimGrid's clock running for an "
    "hour") {
  Scripted client;
  Engine engine(client);
  std::vector<LinkId> links;
  for (const double b : bandwidths) links.push_back(engine.add_link(BytesPerSecond(b)));
  links.push_back(engine.add_link(BytesPerSecond(1e6)));
  auto cases = cases_up_to_4000_seconds();
  cases.push_back({0, 4'050'000'000, 3, 0});
  run_cases(client, engine, cases, links);
  for (const Case& c : cases) {
    CHECK(distance(c.end - c.start, duration(c.bytes, c.link == 3 ? 1e6 : bandwidths[c.link])) <=
          1);
  }
  CHECK(engine.counters().most_live_flows == 2);
}

TEST_CASE(
    "beyond 4,096 s of unbroken flows SimGrid's clock is coarser, and everything still ends") {
  Scripted client;
  Engine engine(client);
  const std::vector<LinkId> links = {engine.add_link(BytesPerSecond(50e9)),
                                     engine.add_link(BytesPerSecond(1e6))};
  std::vector<Case> cases = {{0, 200'000'000'000, 1, 0}};  // 200,000 s
  for (std::uint64_t at = 3'000'000'000'000'001; at < 200'000'000'000'000'000; at += at / 7) {
    cases.push_back({at, 1'000'003, 0, 0});
  }
  run_cases(client, engine, cases, links);
  for (const Case& c : cases)
    CHECK(distance(c.end - c.start, duration(c.bytes, c.link == 1 ? 1e6 : 50e9)) <= 60);
}

TEST_CASE("flows in opposite directions do not disturb each other, two on one link halve it") {
  Scripted client;
  Engine engine(client);
  const LinkId up = engine.add_link(BytesPerSecond(50e9)),
               down = engine.add_link(BytesPerSecond(50e9)),
               shared = engine.add_link(BytesPerSecond(50e9));
  std::vector<std::uint64_t> ends(5);
  client.on_due = [&](Time now, const Key&, std::uint64_t flow) { ends[flow] = now.picoseconds; };
  const auto start = [&](std::vector<LinkId> path, std::int64_t bytes, std::uint64_t flow) {
    engine.start_flow(path, Bytes(bytes), Key{0, 0, flow}, flow);
  };
  start({up}, 50'000'000, 0);
  start({down}, 50'000'000, 1);
  start({shared}, 50'000'000, 2);
  start({shared}, 50'000'000, 3);
  start({shared}, 0, 4);
  engine.run();
  CHECK(ends ==
        std::vector<std::uint64_t>{1'000'000'000, 1'000'000'000, 2'000'000'000, 2'000'000'000, 0});
}

TEST_CASE("a flow that joins and one that leaves change the rates of the rest at once") {
  Scripted client;
  Engine engine(client);
  const LinkId link = engine.add_link(BytesPerSecond(100e9));
  std::vector<std::uint64_t> ends(2);
  client.on_due = [&](Time now, const Key& key, std::uint64_t what) {
    if (what == 9) {
      engine.start_flow(std::span(&link, 1), Bytes(100'000), key, 1);
    } else {
      ends[what] = now.picoseconds;
    }
  };
  engine.start_flow(std::span(&link, 1), Bytes(400'000), Key{},
                    0);  // 1 us alone, 2 us at half, then 2 us alone
  engine.schedule(Time(1'000'000), Key{1, 0, 0}, 9);
  engine.run();
  CHECK(ends == std::vector<std::uint64_t>{5'000'000, 3'000'000});
}

void compare_with_reference(const Fabric& fabric, std::uint32_t hosts) {
  Scripted client;
  Engine engine(client);
  std::vector<LinkId> links;
  for (const double b : fabric.bandwidths) links.push_back(engine.add_link(BytesPerSecond(b)));
  auto flows = lockstep_traffic(fabric, hosts);
  MaxMinReference(fabric.bandwidths).solve(flows);

  constexpr std::uint64_t start = 0, end = 1;
  std::vector<std::uint64_t> ends(flows.size());
  std::vector<ActorId> actors;  // one is woken at every start and end, one polls at every start
  std::uint64_t awake = 0, finished = 0;
  client.on_due = [&](Time now, const Key& key, std::uint64_t what) {
    if (what == start) {
      std::vector<LinkId> path;
      for (const auto link : flows[key.ordinal].path) path.push_back(links[link]);
      engine.start_flow(path, Bytes(static_cast<std::int64_t>(flows[key.ordinal].bytes)), key, end);
      engine.make_runnable(actors[8]);
    } else {
      ends[key.ordinal] = now.picoseconds;
      ++finished;
    }
    engine.make_runnable(actors[key.ordinal % 8]);
  };
  for (std::uint32_t i = 0; i < 9; ++i) {
    actors.push_back(engine.spawn(i, 0, [&] {
      while (finished < flows.size()) {
        ++awake;
        engine.block();
      }
      for (const ActorId actor : actors) engine.make_runnable(actor);
    }));
  }
  for (std::size_t i = 0; i < flows.size(); ++i)
    engine.schedule(Time(flows[i].start_ps), Key{0, 0, i}, start);
  engine.run();

  std::uint64_t worst = 0;
  for (std::size_t i = 0; i < flows.size(); ++i)
    worst = std::max(worst, distance(ends[i], flows[i].end_ps));
  CHECK(worst <= 1);
  CHECK(awake > 1000);
  CHECK(engine.counters().flows == flows.size());
  CHECK(engine.counters().most_live_flows > 100);
}

TEST_CASE(
    "flows that start together on a star end as progressive filling says, to the picosecond") {
  compare_with_reference(star(64), 64);
}

TEST_CASE(
    "flows that start together on a two-level Clos end as progressive filling says, to the "
    "picosecond") {
  compare_with_reference(clos(64), 64);
}

TEST_CASE("a flow needs a path of distinct links that exist") {
  Scripted client;
  Engine engine(client);
  const LinkId link = engine.add_link(BytesPerSecond(1e9));
  const std::vector<LinkId> twice = {link, link}, unknown = {LinkId{7}};
  CHECK_THROWS_AS(engine.start_flow({}, Bytes(1), Key{}, 0), Error);
  CHECK_THROWS_AS(engine.start_flow(twice, Bytes(1), Key{}, 0), Error);
  CHECK_THROWS_AS(engine.start_flow(unknown, Bytes(1), Key{}, 0), Error);
  CHECK_THROWS_AS(engine.start_flow(std::span(&link, 1), Bytes(-1), Key{}, 0), Error);
  CHECK_THROWS_AS(engine.add_link(BytesPerSecond(0)), Error);
}

TEST_CASE("what is under way when the last actor ends is dropped") {
  Scripted client;
  Engine engine(client);
  const LinkId link = engine.add_link(BytesPerSecond(1e9));
  int delivered = 0;
  ActorId actor;
  client.on_due = [&](Time, const Key&, std::uint64_t) {
    ++delivered;
    engine.make_runnable(actor);
  };
  actor = engine.spawn(0, 0, [&] {
    for (int i = 0; i < 20; ++i)
      engine.start_flow(std::span(&link, 1), Bytes(1'000'000), Key{0, 0, 1}, 0);
    engine.schedule(Time(1'000'000'000'000), Key{0, 0, 2}, 0);
    engine.schedule(Time(1'000'000), Key{0, 0, 3}, 0);
    engine.block();
  });
  engine.run();
  CHECK(delivered == 1);
  CHECK(engine.now() == Time(1'000'000));
  CHECK(engine.live_flows() == 0);
}

TEST_CASE("a flow too short for a picosecond ends at the instant it starts") {
  Scripted client;
  Engine engine(client);
  const LinkId link = engine.add_link(BytesPerSecond(10e12));
  std::vector<std::uint64_t> ends;
  client.on_due = [&](Time now, const Key&, std::uint64_t) { ends.push_back(now.picoseconds); };
  engine.start_flow(std::span(&link, 1), Bytes(1), Key{}, 0);
  engine.run();
  CHECK(ends == std::vector<std::uint64_t>{0});
}

}  // namespace
}  // namespace orrery::sim
