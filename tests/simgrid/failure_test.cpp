#include <doctest/doctest.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/simgrid/scripted.hpp"

namespace orrery::sim {
namespace {

// Counts how many are alive.
struct Counted {
  int& alive;
  explicit Counted(int& a) : alive(a) { ++alive; }
  ~Counted() { --alive; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
};

// Actors that hold an object on their stack and another in their closure, and wait for nothing.
void spawn_waiters(Engine& engine, int& alive, std::uint32_t first, std::uint32_t count) {
  for (std::uint32_t i = 0; i < count; ++i) {
    engine.spawn(first + i, 0, [&engine, &alive, held = std::make_shared<Counted>(alive)] {
      const Counted local(alive);
      try {
        for (;;) engine.block();
      } catch (const std::exception&) {
        FAIL("the exception that unwinds is not for rank programs");
      }
    });
  }
}

TEST_CASE("an exception that leaves an actor unwinds the others and leaves run()") {
  int alive = 0;
  {
    Scripted client;
    Engine engine(client);
    const LinkId link = engine.add_link(BytesPerSecond(1e9));
    ActorId actor;
    client.on_due = [&](Time, const Key&, std::uint64_t) { engine.make_runnable(actor); };
    spawn_waiters(engine, alive, 0, 10);
    actor = engine.spawn(10, 0, [&] {
      const Counted local(alive);
      for (int i = 0; i < 10; ++i)
        engine.start_flow(std::span(&link, 1), Bytes(1'000'000), Key{}, 0);
      engine.schedule(Time(1000), Key{}, 0);
      engine.block();
      CHECK(alive == 23);
      throw Error(Category::out_of_memory, "too much").with("rank", "10");
    });
    spawn_waiters(engine, alive, 11, 1);
    try {
      engine.run();
      FAIL("run() did not throw");
    } catch (const Error& e) {
      CHECK(e.category() == Category::out_of_memory);
      CHECK(e.context("rank") == "10");
    }
    CHECK(engine.failed());
    CHECK(engine.now() == Time(1000));
    CHECK(engine.live_actors() == 0);
  }
  CHECK(alive == 0);
}

TEST_CASE("of exceptions at one instant the one of the lowest (rank, flow) is kept") {
  Scripted client;
  Engine engine(client);
  for (const std::uint32_t rank : {7u, 3u, 5u}) {
    engine.spawn(rank, 0, [&engine, rank] {
      if (rank == 3) engine.spawn(1, 0, [] { throw std::runtime_error("never begins"); });
      throw std::runtime_error(std::to_string(rank));
    });
  }
  CHECK_THROWS_WITH(engine.run(), "3");
}

TEST_CASE("an exception that leaves due() unwinds the actors and leaves run()") {
  int alive = 0;
  Scripted client;
  Engine engine(client);
  int delivered = 0;
  client.on_due = [&](Time, const Key& key, std::uint64_t) {
    ++delivered;
    if (key.rank == 1) throw std::runtime_error("from due");
  };
  spawn_waiters(engine, alive, 0, 5);
  for (std::uint32_t rank : {0u, 1u, 2u}) engine.schedule(Time(7), Key{rank, 0, 0}, 0);
  CHECK_THROWS_WITH(engine.run(), "from due");
  CHECK(delivered == 2);
  CHECK(alive == 0);
}

TEST_CASE("fail() from due() or from an actor ends the run at that instant") {
  int alive = 0;
  Scripted client;
  Engine engine(client);
  bool passed = false;
  client.on_due = [&](Time, const Key& key, std::uint64_t) {
    CHECK(key.rank == 0);
    engine.fail(std::make_exception_ptr(std::runtime_error("marked")));
  };
  spawn_waiters(engine, alive, 0, 3);
  engine.spawn(9, 0, [&] {
    try {
      engine.block();
    } catch (...) {
      passed = true;
      engine.schedule(Time(0), Key{}, 0);  // has no effect any more, and does not throw
      engine.spawn(10, 0, [] { FAIL("spawned while unwinding"); });
      engine.fail(std::make_exception_ptr(std::runtime_error("too late")));
      throw;
    }
  });
  engine.schedule(Time(5), Key{0, 0, 0}, 0);
  engine.schedule(Time(5), Key{1, 0, 0}, 0);
  CHECK_THROWS_WITH(engine.run(), "marked");
  CHECK(passed);
  CHECK(alive == 0);
}

TEST_CASE("an actor that swallows the unwinding gets it again at its next block") {
  Scripted client;
  Engine engine(client);
  int swallowed = 0;
  engine.spawn(0, 0, [&] {
    for (int i = 0; i < 3; ++i) {
      try {
        engine.block();
      } catch (...) {
        ++swallowed;
      }
    }
  });
  engine.spawn(1, 0, [] { throw std::runtime_error("first"); });
  CHECK_THROWS_WITH(engine.run(), "first");
  CHECK(swallowed == 3);
}

TEST_CASE("a deadlock is the client's to diagnose: by throwing") {
  int alive = 0;
  Scripted client;
  Engine engine(client);
  spawn_waiters(engine, alive, 0, 4);
  try {
    engine.run();
    FAIL("run() did not throw");
  } catch (const Error& e) {
    CHECK(e.category() == Category::deadlock);
  }
  CHECK(alive == 0);
}

TEST_CASE("a deadlock is the client's to diagnose: by waking an actor that throws") {
  int alive = 0;
  Scripted client;
  Engine engine(client);
  bool deadlocked = false;
  ActorId actor;
  client.on_stuck = [&] {
    CHECK(engine.current() == no_actor);
    CHECK(engine.live_actors() == 3);
    deadlocked = true;
    engine.make_runnable(actor);
  };
  spawn_waiters(engine, alive, 0, 2);
  actor = engine.spawn(2, 0, [&] {
    while (!deadlocked) engine.block();
    throw std::runtime_error("waited for ever");
  });
  CHECK_THROWS_WITH(engine.run(), "waited for ever");
  CHECK(alive == 0);
}

TEST_CASE("a deadlock without diagnosis is an internal error") {
  int alive = 0;
  Scripted client;
  client.on_stuck = [] {};
  Engine engine(client);
  spawn_waiters(engine, alive, 0, 2);
  try {
    engine.run();
    FAIL("run() did not throw");
  } catch (const Error& e) {
    CHECK(e.category() == Category::internal);
  }
  CHECK(alive == 0);
}

TEST_CASE("a process has one engine, also after that is gone") {
  Scripted client;
  {
    Engine engine(client);
    CHECK_THROWS_AS(Engine another(client), Error);
    engine.spawn(0, 0, [] {});  // never runs
  }
  CHECK_THROWS_AS(Engine another(client), Error);
}

TEST_CASE("misuse is reported") {
  Scripted client;
  Engine engine(client);
  CHECK_THROWS_AS(engine.block(), Error);
  CHECK_THROWS_AS(engine.make_runnable(ActorId{3}), Error);
  client.on_due = [&](Time now, const Key& key, std::uint64_t) {
    engine.schedule(now - Time(1), key, 0);
  };
  engine.schedule(Time(10), Key{}, 0);
  CHECK_THROWS_WITH_AS(engine.run(), doctest::Contains("past"), Error);
  CHECK_THROWS_AS(engine.run(), Error);
  CHECK_THROWS_AS(engine.add_link(BytesPerSecond(1)), Error);
}

}  // namespace
}  // namespace orrery::sim
