#include "backend/clock.hpp"

#include <doctest/doctest.h>

#include <algorithm>

#include "backend/core/philox.hpp"
#include "tests/backend/fake_device.hpp"

using namespace orrery;

namespace {

constexpr std::size_t count = 4;  // streams

// `a` of a forgotten past says nothing.
bool equal(std::span<const std::uint32_t> a, const Clock& b) {
  for (std::size_t s = 0; s < count; ++s)
    if ((a.empty() ? 0 : a[s]) != b[s]) return false;
  return true;
}

// Streams as the library keeps them, and beside them the clock of every operation there ever was.
struct Model {
  std::array<StreamClock, count> clocks;
  std::array<std::vector<Clock>, count> full;  // by ordinal; [0] is before the first
  std::array<Clock, count> next;               // what the next operation will know
  Clock host;

  Model() {
    for (auto& history : full) history.emplace_back();
  }
  std::uint32_t issued(std::size_t s) const {
    return static_cast<std::uint32_t>(full[s].size() - 1);
  }
  void issue(std::size_t s) { full[s].push_back(next[s]); }
  void fence(std::size_t s, std::size_t from, std::uint32_t ordinal) {
    const auto learned = clocks[from].at(ordinal);
    Clock naive = full[from][ordinal];
    naive.raise(from, ordinal);
    next[s].merge(naive.first(count));
    issue(s);
    clocks[s].learn(issued(s), learned, count, {static_cast<std::uint32_t>(from), ordinal});
    if (clocks[s].is_crowded()) clocks[s].forget_before(known_to_all(s));
  }
  // Of stream s, by every other stream: no fence asks for it again.
  std::uint32_t known_to_all(std::size_t s) const {
    std::uint32_t known = issued(s);
    for (std::size_t other = 0; other < count; ++other)
      if (other != s) known = std::min(known, next[other][s]);
    return known;
  }
  void host_wait(std::size_t from, std::uint32_t ordinal) {
    if (ordinal <= host[from]) return;
    host.merge(full[from][ordinal].first(count));
    host.raise(from, ordinal);
    for (std::size_t s = 0; s < count; ++s) {
      next[s].merge(host.first(count));
      clocks[s].learn(issued(s) + 1, host.first(count), count);
      clocks[s].forget_before(host[s]);
    }
  }
  // Every answer that can still be asked for.
  bool agree() const {
    for (std::size_t s = 0; s < count; ++s) {
      if (!equal(clocks[s].now().first(count), next[s])) return false;
      for (std::uint32_t o = std::max({host[s], known_to_all(s), 1U}); o <= issued(s); ++o)
        if (!equal(clocks[s].at(o), full[s][o])) return false;
    }
    return true;
  }
};

}  // namespace

TEST_CASE("a clock rises and never falls") {
  Clock clock, other;
  clock.raise(2, 7);
  clock.raise(2, 5);
  other.raise(1, 3);
  clock.merge(other.first(count));
  CHECK(clock[2] == 7);
  CHECK(clock[1] == 3);
  CHECK(clock[0] == 0);
}

TEST_CASE("an operation knows what its stream learned before it, not what it learned later") {
  StreamClock clock;
  Clock first, second;
  first.raise(1, 4);
  second.raise(2, 9);
  clock.learn(3, first.first(count), count);
  clock.learn(6, second.first(count), count);
  CHECK(clock.at(2).empty());
  CHECK(clock.at(3)[1] == 4);
  CHECK(clock.at(5)[2] == 0);
  CHECK(clock.at(6)[2] == 9);
  CHECK(clock.at(100)[1] == 4);
  clock.forget_before(5);
  CHECK(clock.at(5)[1] == 4);
  CHECK(clock.at(6)[2] == 9);
}

TEST_CASE(
    "a past that every stream knows is forgotten, so that streams in step keep little of it") {
  StreamClock clock;
  for (std::uint32_t ordinal = 1; ordinal <= 10'000; ++ordinal) {
    Clock learned;
    learned.raise(1, ordinal);
    clock.learn(ordinal, learned.first(2), 2);
    if (clock.is_crowded()) clock.forget_before(ordinal);
    REQUIRE(clock.at(ordinal)[1] == ordinal);
  }
  CHECK(clock.past_bytes() < 1024);
}

TEST_CASE("two things learned by one operation are both known to it") {
  StreamClock clock;
  Clock first, second;
  first.raise(1, 4);
  second.raise(2, 9);
  clock.learn(3, first.first(count), count);
  clock.learn(3, second.first(count), count);
  CHECK(clock.at(3)[1] == 4);
  CHECK(clock.at(3)[2] == 9);
}

TEST_CASE("forgetting history never changes an answer: random programs keep the full clocks") {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    CAPTURE(seed);
    Random random(seed, Purpose::user);
    Model model;
    for (int step = 0; step < 400; ++step) {
      const std::size_t s = random.below(count), from = random.below(count);
      const std::uint32_t tail = model.issued(from);
      // An event that the interface would ask for: not yet known to the host.
      const auto ordinal =
          static_cast<std::uint32_t>(model.host[from] + random.below(tail - model.host[from] + 1));
      if (random.below(3) == 0)
        model.issue(s);
      else if (random.below(6) == 0)
        model.host_wait(from, ordinal);
      else if (s != from && ordinal > 0 && model.next[s][from] < ordinal)
        model.fence(s, from, ordinal);
    }
    REQUIRE(model.agree());
  }
}

TEST_CASE("order is transitive through fences of a third stream") {
  FakeWorld world;
  Rank& rank = world.rank();
  Stream &a = rank.stream("a"), &b = rank.stream("b"), &c = rank.stream("c");
  const Tensor t = tensor(rank, a, 4);
  a.launch(writer(rank), {t});
  b.after(a.record());
  c.after(b.record());
  CHECK_NOTHROW(c.launch(writer(rank), {t}));
}

TEST_CASE("an event older than a fence carries nothing of what the fence learned") {
  FakeWorld world;
  Rank& rank = world.rank();
  Stream &a = rank.stream("a"), &b = rank.stream("b"), &c = rank.stream("c");
  const Tensor t = tensor(rank, a, 4), other = tensor(rank, b, 4);
  b.launch(writer(rank), {other});
  const Event early = b.record();
  a.launch(writer(rank), {t});
  b.after(a.record());
  c.after(early);
  CHECK_THROWS_AS(c.launch(writer(rank), {t}), Error);
}

TEST_CASE("a fence on what is known already takes no operation") {
  FakeWorld world;
  Rank& rank = world.rank();
  Stream &a = rank.stream("a"), &b = rank.stream("b");
  const Tensor t = tensor(rank, a, 4);
  a.launch(writer(rank), {t});
  b.after(a.record());
  b.after(a.record());
  a.after(a.record());
  b.after({a.index(), 0});
  CHECK(world.device().fences.size() == 1);
  CHECK(b.record().ordinal == 1);
}

TEST_CASE("a fence on an operation that has not been issued is refused with its call site") {
  FakeWorld world;
  Rank& rank = world.rank();
  Stream &a = rank.stream("a"), &b = rank.stream("b");
  try {
    b.after({a.index(), 5});
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.category() == Category::invalid_program);
    CHECK(error.context("site").find("clock_test.cpp") != std::string::npos);
  }
}
