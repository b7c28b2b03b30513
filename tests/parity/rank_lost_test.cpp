// Ranks whose programs end while others wait for them: who waits learns it by a named error at the
// deadline, may regroup and go on, in sim and on cpu alike.
#include <doctest/doctest.h>

#include "tests/support/errors.hpp"
#include "tests/support/worlds.hpp"

namespace orrery {
namespace {

constexpr double deadline = 5e-3;

struct Group {
  explicit Group(Rank& rank)
      : channel(rank.channel(Axis::replicate, "group")),
        stream(rank.stream("comm")),
        x(toy::vector(rank, stream, 4, "x")) {
    toy::fill(rank, stream, x, rank.id() + 1);
  }
  Event mean() { return stream.all_reduce(x, Reduce::mean, channel); }
  Channel& channel;
  Stream& stream;
  Tensor x;
};

void expect_same(const WorldSetup& setup, const SharedProgram& program,
                 const std::function<void(const WorldResult&)>& check) {
  const WorldResult sim = run_in_sim(setup, program), cpu = run_in_cpu(setup, program);
  REQUIRE_MESSAGE(!sim.error, why(sim));
  REQUIRE_MESSAGE(!cpu.error, why(cpu));
  check(sim);
  check(cpu);
  CHECK(sim.channels == cpu.channels);
}

}  // namespace

// Ranks 1 and 3 of five end behind the first mean of 1 … 5.
TEST_CASE("who waits for ranks that have ended learns which they are, and goes on without them") {
  const auto program = [](Rank& rank, RankNotes& notes) {
    Group group(rank);
    rank.notice_losses(group.channel, Seconds(deadline));
    rank.wait(group.mean());
    if (rank.id() == 1 || rank.id() == 3) return;
    toy::fill(rank, group.stream, group.x, rank.id());
    try {
      rank.wait(group.mean());
    } catch (const RankLost& lost) {
      for (const int other : lost.ranks()) notes.values.push_back(other);
      notes.values.push_back(rank.read(group.x)[0]);  // as it was
      rank.regroup(group.channel, {0, 2, 4});
    }
    rank.wait(group.mean());
    notes.values.push_back(rank.read(group.x)[0]);
    toy::fill(rank, group.stream, group.x, rank.id());
    rank.wait(group.stream.broadcast(group.x, 2, group.channel));
    notes.values.push_back(rank.read(group.x)[0]);
    notes.values.push_back(group.channel.size() * 10 + group.channel.index());
  };
  expect_same(setup_for(5), program, [](const WorldResult& result) {
    for (const std::size_t i : {1U, 3U}) CHECK(result.notes[i].values.empty());
    for (const std::size_t i : {0U, 2U, 4U})
      CHECK(result.notes[i].values == std::vector<double>{1, 3, static_cast<double>(i), 2, 4,
                                                          30 + static_cast<double>(i) / 2});
  });
}

TEST_CASE("in sim who waits learns it at the deadline to the picosecond, by whoever came last") {
  WorldSetup setup = setup_for(3);
  const WorldResult result = run_in_sim(setup, [](Rank& rank, RankNotes& notes) {
    Group group(rank);
    rank.notice_losses(group.channel, Seconds(deadline));
    if (rank.id() == 1) return rank.sleep(Seconds(2e-3));  // ends last
    rank.sleep(Seconds(1e-3 * rank.id()));
    CHECK_THROWS_AS(rank.wait(group.mean()), RankLost);
    notes.values.push_back(rank.now().value);
    rank.regroup(group.channel, {0, 2});
    rank.sleep(Seconds(1e-3 * rank.id()));
    rank.wait(group.mean());
    notes.values.push_back(rank.now().value);
  });
  REQUIRE_MESSAGE(!result.error, why(result));
  for (const std::size_t i : {0U, 2U}) {
    CHECK(result.notes[i].values[0] == doctest::Approx(7e-3).epsilon(1e-9));
    // 16 bytes: alpha of 1 us for each of two steps, and 16 ns.
    CHECK(result.notes[i].values[1] == doctest::Approx(9.002016e-3).epsilon(1e-9));
  }
}

TEST_CASE("a rank that is only slow is not lost") {
  expect_same(
      setup_for(3),
      [](Rank& rank, RankNotes& notes) {
        Group group(rank);
        rank.notice_losses(group.channel, Seconds(1e-4));
        if (rank.id() == 1) rank.sleep(Seconds(2e-3));
        rank.wait(group.mean());
        notes.values.push_back(rank.read(group.x)[0]);
      },
      [](const WorldResult& result) {
        CHECK(result.noted() == std::vector<double>{2, 2, 2});
      });
}

TEST_CASE("what was given up is told once for each, in their order, whenever it is waited for") {
  expect_same(
      setup_for(3),
      [](Rank& rank, RankNotes& notes) {
        Group group(rank);
        rank.notice_losses(group.channel, Seconds(1e-3));
        if (rank.id() == 2) return;
        group.mean();
        group.mean();
        const Event last = group.stream.record();
        int told = 0;
        for (bool over = false; !over;) try {
            rank.wait(last);
            over = true;
          } catch (const RankLost&) {
            ++told;
          }
        notes.values.push_back(told);
        rank.regroup(group.channel, {0, 1});
        rank.wait(group.mean());
        notes.values.push_back(rank.read(group.x)[0]);
      },
      [](const WorldResult& result) {
        CHECK(result.noted() == std::vector<double>{2, 1.5, 2, 1.5});
      });
}

TEST_CASE(
    "a loss that no program asks about ends the run by its name, and so does one not caught") {
  for (const bool waits : {false, true}) {
    const auto program = [waits](Rank& rank, RankNotes&) {
      Group group(rank);
      rank.notice_losses(group.channel, Seconds(1e-3));
      if (rank.id() == 1) return;
      const Event end = group.mean();
      if (waits) rank.wait(end);
    };
    for (const WorldResult& result :
         {run_in_sim(setup_for(3), program), run_in_cpu(setup_for(3), program)}) {
      REQUIRE(result.error);
      CHECK(result.error->category() == Category::rank_lost);
      CHECK(exit_code(result.error->category()) == 4);
      CHECK(mentions(*result.error, "rank 1 is lost"));
      CHECK(mentions(*result.error, "all_reduce #0 on replicate/group"));
    }
  }
}

// An exchange with one that has ended, while others of the group go on.
TEST_CASE("an exchange with a rank that has ended is given up, those of other pairs are not") {
  expect_same(
      setup_for(4),
      [](Rank& rank, RankNotes& notes) {
        Group group(rank);
        const Tensor y = toy::vector(rank, group.stream, 4, "y");
        rank.notice_losses(group.channel, Seconds(1e-3));
        if (rank.id() == 3) return;
        const int peer = rank.id() == 0 ? 3 : 3 - rank.id();
        bool lost = false;
        try {
          rank.wait(group.stream.exchange(group.x, y, peer, group.channel));
        } catch (const RankLost&) {
          lost = true;
        }
        notes.values = {lost ? -1.0 : rank.read(y)[0]};
      },
      [](const WorldResult& result) {
        CHECK(result.noted() == std::vector<double>{-1, 3, 2});
      });
}

TEST_CASE(
    "a group is made anew of ranks of its own, and without the others it needs none of them") {
  const auto refused = [](const std::vector<int>& ranks) {
    const WorldResult result = run_in_cpu(setup_for(3), [ranks](Rank& rank, RankNotes&) {
      Group group(rank);
      rank.regroup(group.channel, ranks);
    });
    return result.error && result.error->category() == Category::invalid_program;
  };
  CHECK(refused({0, 1}));     // rank 2 is not among them
  CHECK(refused({2, 1, 0}));  // not ascending
  CHECK(refused({0, 1, 2, 3}));
  CHECK(!refused({0, 1, 2}));
  expect_same(
      setup_for(3),
      [](Rank& rank, RankNotes& notes) {
        Group group(rank);
        rank.regroup(group.channel, {rank.id()});
        rank.wait(group.mean());
        notes.values.push_back(rank.read(group.x)[0]);
        rank.regroup(group.channel, {0, 1, 2});
        rank.wait(group.mean());
        notes.values.push_back(rank.read(group.x)[0]);
      },
      [](const WorldResult& result) {
        CHECK(result.noted() == std::vector<double>{1, 2, 2, 2, 3, 2});
      });
}

}  // namespace orrery
