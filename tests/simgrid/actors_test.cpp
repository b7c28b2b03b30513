#include <doctest/doctest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/simgrid/scripted.hpp"

namespace orrery::sim {
namespace {

TEST_CASE(
    "actors spawned by actors first run in the next phase 2 of the same instant, in (rank, flow) "
    "order") {
  Scripted client;
  Engine engine(client);
  std::string log;
  client.on_due = [&](Time, const Key&, std::uint64_t) { log += "c "; };
  engine.spawn(1, 0, [&] {
    log += "a10 ";
    engine.spawn(1, 2, [&] { log += "a12 "; });
    engine.spawn(1, 1, [&] {
      log += "a11 ";
      engine.spawn(0, 7, [&] { log += "a07 "; });
    });
    engine.schedule(engine.now(), Key{}, 0);
    log += "a10 ";
  });
  engine.spawn(2, 0, [&] { log += "a20 "; });
  engine.run();
  CHECK(log == "a10 a10 a20 c a11 a12 a07 ");
  CHECK(engine.live_actors() == 0);
}

TEST_CASE("current() is the actor that runs, also after others ran in between") {
  Scripted client;
  Engine engine(client);
  std::vector<ActorId> actors;
  int checks = 0;
  client.on_due = [&](Time, const Key&, std::uint64_t) {
    CHECK(engine.current() == no_actor);
    for (const ActorId actor : actors) engine.make_runnable(actor);
  };
  for (std::uint32_t i = 0; i < 5; ++i) {
    actors.push_back(engine.spawn(i, 0, [&, i] {
      for (int n = 0; n < 3; ++n) {
        CHECK(engine.current() == actors[i]);
        ++checks;
        if (i == 0) engine.schedule(engine.now() + Time(10), Key{}, 0);
        engine.block();
      }
      CHECK(engine.current() == actors[i]);
    }));
  }
  CHECK(engine.current() == no_actor);
  engine.run();
  CHECK(checks == 15);
}

TEST_CASE("sixteen thousand actors work") {
  if (actors_are_threads) return;
  constexpr std::uint32_t n = 16'384;
  Scripted client;
  EngineOptions options;
  options.actors = n;
  Engine engine(client, options);
  std::vector<ActorId> actors(n);
  std::uint64_t woken = 0;
  client.on_due = [&](Time, const Key&, std::uint64_t actor) {
    engine.make_runnable(actors[actor]);
  };
  for (std::uint32_t i = 0; i < n; ++i) {
    actors[i] = engine.spawn(i, 0, [&, i] {
      for (std::uint64_t k = 0; k < 5; ++k) {
        engine.schedule(engine.now() + Time(1000 + i % 7), Key{i, 0, k}, i);
        engine.block();
        ++woken;
      }
    });
  }
  engine.run();
  CHECK(woken == 5 * n);
  CHECK(engine.counters().wake_ups == 6 * n);
  CHECK(engine.now() == Time(5 * 1006));
}

__attribute__((noinline)) char use_stack(Engine& engine, std::size_t bytes) {
  auto* const area = static_cast<volatile char*>(__builtin_alloca(bytes));
  for (std::size_t i = 0; i < bytes; i += 64) area[i] = 1;
  engine.block();
  return area[0];
}

long peak_kilobytes() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

TEST_CASE("short-lived actors one after the other give their stacks back") {
  if (actors_are_threads) return;
  Scripted client;
  Engine engine(client);
  std::uint32_t begun = 0;
  std::function<void()> body = [&] {
    if (++begun < 5'000) engine.spawn(0, begun, body);
  };
  engine.spawn(0, 0, body);
  const long before = peak_kilobytes();
  engine.run();
  CHECK(begun == 5'000);
  CHECK(peak_kilobytes() - before < 10'000);  // each stack that is kept takes 8 or more
}

long resident_kilobytes() {
  long all = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> all >> resident;
  return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

__attribute__((noinline)) void set_up_deeply(std::size_t bytes) {
  auto* const area = static_cast<volatile char*>(__builtin_alloca(bytes));
  for (std::size_t i = 0; i < bytes; i += 64) area[i] = 1;
}

TEST_CASE("of the stack of an actor that waits no more is resident than it uses") {
  if (actors_are_threads) return;
  constexpr std::uint32_t n = 4'000;
  Scripted client;
  EngineOptions options;
  options.actors = n;
  Engine engine(client, options);
  std::uint32_t ended = 0;
  long then = 0;
  client.on_due = [&](Time, const Key&, std::uint64_t actor) {
    if (actor == 0) then = resident_kilobytes();
    engine.make_runnable(ActorId{static_cast<std::uint32_t>(actor)});
  };
  for (std::uint32_t i = 0; i < n; ++i) {
    engine.spawn(i, 0, [&, i] {
      set_up_deeply(20'000);
      engine.schedule(Time(10 + i), Key{i, 0, 0}, i);
      engine.block();
      ++ended;
    });
  }
  const long before = resident_kilobytes();
  engine.run();
  CHECK(ended == n);
  CHECK((then - before) / n < 6);  // a page, and SimGrid's actor
}

TEST_CASE("the deepest stack is measured") {
  if (actors_are_threads) return;
  Scripted client;
  EngineOptions options;
  options.measure_stacks = true;
  Engine engine(client, options);
  client.on_due = [&](Time, const Key&, std::uint64_t actor) {
    engine.make_runnable(ActorId{static_cast<std::uint32_t>(actor)});
  };
  for (std::uint32_t i = 0; i < 4; ++i) {
    engine.spawn(i, 0, [&, i] {
      engine.schedule(Time(10), Key{i, 0, 0}, i);
      use_stack(engine, i == 2 ? 100'000 : 1'000);
    });
  }
  engine.run();
  CHECK(engine.counters().deepest_stack >= 100'000);
  CHECK(engine.counters().deepest_stack < 108'000);
}

TEST_CASE("an actor that blocks near the end of its stack gets an error") {
  if (actors_are_threads) return;
  Scripted client;
  EngineOptions options;
  options.stack_bytes = 32 * 1024;
  Engine engine(client, options);
  engine.spawn(0, 0, [&] { use_stack(engine, 26'000); });
  CHECK_THROWS_WITH_AS(engine.run(), doctest::Contains("stack"), Error);
}

TEST_CASE("an actor may block while it handles an exception, and others throw in between") {
  Scripted client;
  Engine engine(client);
  client.on_due = [&](Time, const Key&, std::uint64_t actor) {
    engine.make_runnable(ActorId{static_cast<std::uint32_t>(actor)});
  };
  std::vector<std::string> caught(6);
  for (std::uint32_t i = 0; i < 6; ++i) {
    engine.spawn(i, 0, [&, i] {
      const auto wait = [&](std::uint64_t picoseconds) {
        engine.schedule(engine.now() + Time(picoseconds), Key{i, 0, picoseconds}, i);
        engine.block();
      };
      try {
        try {
          throw std::runtime_error("of actor " + std::to_string(i));
        } catch (const std::exception&) {
          wait(10 + i % 2);  // the handlers of all actors are left open
          try {
            throw std::runtime_error("inner");
          } catch (const std::exception&) {
            wait(10 - i);  // and closed in another order
          }
          throw;
        }
      } catch (const std::exception& e) {
        caught[i] = e.what();
      }
    });
  }
  engine.run();
  for (std::size_t i = 0; i < caught.size(); ++i)
    CHECK(caught[i] == "of actor " + std::to_string(i));
}

}  // namespace
}  // namespace orrery::sim
