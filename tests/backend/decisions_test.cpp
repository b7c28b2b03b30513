#include "backend/decisions.hpp"

#include <doctest/doctest.h>

#include "tests/backend/fake_device.hpp"
#include "tests/support/errors.hpp"

using namespace orrery;

namespace {

WorldOptions recording() {
  WorldOptions options = replicas(2);
  options.decisions = DecisionMode::record;
  return options;
}

// A program that learns from time in every way there is; the path it took.
std::vector<std::int64_t> path(FakeWorld& world, bool late) {
  world.hold = true;
  Rank& rank = world.rank();
  Stream &a = rank.stream("a"), &b = rank.stream("b");
  const Prepared kernel = rank.prepare(Kernel::timed("k", Seconds(1)));
  std::vector<std::int64_t> taken;
  a.launch(kernel);
  if (!late) world.settle();
  while (!rank.poll(a.record())) {
    taken.push_back(100);
    world.settle();
  }
  world.device().waited = [&](const Wait&) {
    if (!late) world.settle();
  };
  b.launch(kernel);
  taken.push_back(rank.wait(b.record(), Seconds(1)) ? 1 : 0);
  world.settle();
  b.launch(kernel);
  const Event events[2] = {b.record(), a.record()};
  taken.push_back(static_cast<std::int64_t>(rank.wait_any(events)));
  world.settle();
  if (!late) world.rank(1).control_send(0, 7, {42});
  const auto message = rank.control_receive(7, any_source, Seconds(1));
  taken.push_back(message ? message->from : -1);
  world.device().waited = nullptr;
  return taken;
}

}  // namespace

TEST_CASE("a recorded run is replayed along its own path, though time says otherwise") {
  for (const bool late : {false, true}) {
    FakeWorld first(recording());
    const std::vector<std::int64_t> taken = path(first, late);
    WorldOptions options = replicas(2);
    options.decisions = DecisionMode::replay;
    options.replay = {first.rank(0).decisions(), first.rank(1).decisions()};
    FakeWorld second(options);
    second.rank(1).control_send(0, 7, {42});  // there in any case
    CHECK(path(second, false) == taken);
    CHECK(second.rank().decisions().finished());
  }
}

TEST_CASE("the two paths of time differ, so replaying means something") {
  FakeWorld early(recording()), late(recording());
  CHECK(path(early, false) == std::vector<std::int64_t>{1, 1, 1});
  CHECK(path(late, true) == std::vector<std::int64_t>{100, 0, 1, -1});
}

TEST_CASE("decisions stand in the order of asking, before the hand-overs that their waits make") {
  FakeWorld world(recording());
  world.hold = true;
  Rank& rank = world.rank();
  Stream& s = rank.stream("s");
  world.device().waited = [&](const Wait&) {
    rank.decisions().record(DecisionKind::handover, 0, 1);
    rank.decisions().record(DecisionKind::handover, 1, 0);
    world.settle();
  };
  s.launch(rank.prepare(Kernel::timed("k", Seconds(1))));
  const Event events[1] = {s.record()};
  rank.wait_any(events);
  s.launch(rank.prepare(Kernel::timed("k", Seconds(1))));
  rank.wait(s.record(), Seconds(1));
  rank.control_receive(1, any_source, Seconds(1));
  const auto& log = rank.decisions().decisions;
  REQUIRE(log.size() == 9);
  CHECK(log[0] == Decision{DecisionKind::wait_any, 0, 0});
  CHECK(log[1] == Decision{DecisionKind::handover, 0, 1});
  CHECK(log[3] == Decision{DecisionKind::timed_wait, 0, 1});
  CHECK(log[6] == Decision{DecisionKind::receive, 0, -2});
}

TEST_CASE("a run that neither records nor replays keeps no log") {
  FakeWorld world(replicas(2));
  path(world, false);
  CHECK(world.rank().decisions().decisions.empty());
}

TEST_CASE("a receive from a known source without deadline is no decision") {
  FakeWorld world(recording());
  world.rank(1).control_send(0, 3, {1});
  CHECK(world.rank().control_receive(3, 1)->values == std::vector<std::int64_t>{1});
  CHECK(world.rank().decisions().decisions.empty());
}

TEST_CASE("replay refuses another kind, another flow and the end of the log, with the call site") {
  DecisionLog log;
  log.mode = DecisionMode::replay;
  log.decisions = {{DecisionKind::poll, 0, 1}, {DecisionKind::poll, 2, 0}};
  const Error kind = error_of([&] { log.next(DecisionKind::wait_any, 0, Site::here()); });
  CHECK(kind.category() == Category::replay);
  CHECK(kind.context("asked").find("wait_any of flow 0 (") == 0);
  CHECK(kind.context("asked").find("decisions_test.cpp") != std::string::npos);
  CHECK(kind.context("logged") == "poll of flow 0");
  CHECK(log.next(DecisionKind::poll, 0, Site::here()) == 1);  // a refusal consumes nothing
  CHECK(error_of([&] { log.next(DecisionKind::poll, 1, Site::here()); }).category() ==
        Category::replay);
  REQUIRE(log.peek() != nullptr);
  CHECK(log.next(DecisionKind::poll, 2, Site::here()) == 0);
  CHECK(log.finished());
  CHECK(log.peek() == nullptr);
  const Error end = error_of([&] { log.next(DecisionKind::poll, 0, Site::here()); });
  CHECK(end.category() == Category::replay);
  CHECK(mentions(end, "ends after 2 decisions"));
}

TEST_CASE("replay refuses a log of fewer ranks, and a choice that is not among the events") {
  WorldOptions options = replicas(2);
  options.decisions = DecisionMode::replay;
  options.replay.resize(1);
  CHECK(error_of([&] { FakeWorld world(options); }).category() == Category::replay);
  options.replay.resize(2);
  options.replay[0].decisions = {{DecisionKind::wait_any, 0, 5}};
  FakeWorld world(options);
  const Event none[1] = {world.rank().stream("s").record()};
  CHECK(error_of([&] { world.rank().wait_any(none); }).category() == Category::replay);
}

TEST_CASE("a log survives the way through text") {
  std::vector<DecisionLog> logs(3);
  logs[0].decisions = {{DecisionKind::poll, 0, 0}, {DecisionKind::wait_any, 4, 17}};
  logs[2].decisions = {{DecisionKind::timed_wait, 0, 1},
                       {DecisionKind::receive, 1, -2},
                       {DecisionKind::receive, 4'294'967'295U, 5},
                       {DecisionKind::handover, 0, 2}};
  const std::string text = to_text(logs);
  CHECK(text.find("orrery.decisions/1 3\n0 poll 0 0\n") == 0);
  const std::vector<DecisionLog> again = decisions_from_text(text, "log");
  REQUIRE(again.size() == 3);
  for (std::size_t r = 0; r < 3; ++r) {
    CHECK(again[r].decisions == logs[r].decisions);
    CHECK(again[r].replaying());
  }
}

TEST_CASE("damaged text is refused with its line") {
  const std::string head = "orrery.decisions/1 2\n0 poll 0 1\n";
  const std::vector<std::pair<std::string, std::string>> damaged{
      {"", "1"},
      {"orrery.decisions/2 2\n", "1"},
      {"orrery.decisions/1\n", "1"},
      {"orrery.decisions/1 -1\n", "1"},
      {"orrery.decisions/1 99999999999\n", "1"},
      {"orrery.decisions/1 2 3\n", "1"},
      {head + "2 poll 0 1\n", "3"},
      {head + "-1 poll 0 1\n", "3"},
      {head + "0 pool 0 1\n", "3"},
      {head + "0 poll 0\n", "3"},
      {head + "0 poll 0 1 2\n", "3"},
      {head + "0 poll -1 1\n", "3"},
      {head + "0 poll 4294967296 1\n", "3"},
      {head + "0 poll 0 99999999999999999999\n", "3"},
      {head + "0 poll zero 1\n", "3"},
      {head + "\n0 poll 0 1\n", "3"}};
  for (const auto& [text, line] : damaged) {
    CAPTURE(text);
    const Error error = error_of([&, &t = text] { decisions_from_text(t, "some.log"); });
    CHECK(error.category() == Category::config);
    CHECK(error.context("file") == "some.log");
    CHECK(error.context("line") == line);
  }
}
