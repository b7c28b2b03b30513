// Every way of waiting, in both worlds: wait_any, deadlines met and missed, signals between flows,
// control messages with any source; recorded in one world and replayed in the other; poison.
//
// README.md names the breaks of the product by which it was seen to fail.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/support/worlds.hpp"

using namespace orrery;

namespace {

Prepared pause(Rank& rank, double seconds) {
  return rank.prepare(Kernel::timed("pause", Seconds(seconds)));
}

// Two flows hand a number back and forth, each adding to it; both wait on streams of their own.
void ping_pong(Rank& rank, RankNotes& notes) {
  Stream &a = rank.stream("a"), &b = rank.stream("b");
  Signal &ping = rank.signal("ping"), &pong = rank.signal("pong");
  double value = 1;
  const Task other = rank.fork("other", [&] {
    for (int i = 0; i < 10; ++i) {
      rank.wait(ping);
      b.launch(pause(rank, 1e-6));
      rank.wait(b.record());
      value = value * 2;
      rank.raise(pong);
    }
  });
  for (int i = 0; i < 10; ++i) {
    a.launch(pause(rank, 2e-6));
    rank.wait(a.record());
    value += 1;
    rank.raise(ping);
    rank.wait(pong);
  }
  rank.join(other);
  notes.values = {value};
}

// Rank 0 hears from all others in whatever order; the order is noted.
void hear_all(Rank& rank, RankNotes& notes) {
  Stream& s = rank.stream("s");
  const int ranks = rank.size(all_axes);
  if (rank.id() > 0) {
    s.launch(pause(rank, 1e-6 * (ranks - rank.id())));
    rank.wait(s.record());
    rank.control_send(0, 4, {rank.id(), rank.id() * 10});
    return;
  }
  for (int i = 1; i < ranks; ++i) {
    const auto message = rank.control_receive(4);
    notes.values.push_back(message->from);
    notes.values.push_back(static_cast<double>(message->values.at(1)));
  }
}

// Three streams race; then a deadline that is met and one that is missed; one flow polls while
// another receives. Everything that time decides is noted.
void decide(Rank& rank, RankNotes& notes) {
  Stream &a = rank.stream("a"), &b = rank.stream("b"), &c = rank.stream("c");
  Signal& go = rank.signal("go");
  const int ranks = rank.size(all_axes), next = (rank.id() + 1) % ranks;
  const Task listener = rank.fork("listener", [&] {
    for (int i = 0; i < 6; ++i) {
      const auto message = rank.control_receive(9, any_source, Seconds(2e-6));
      notes.values.push_back(message ? 1000 + message->from : 2000);
      if (!message) --i;  // late is not lost
      if (i % 2 == 0) rank.raise(go);
    }
  });
  for (int i = 0; i < 6; ++i) {
    a.launch(pause(rank, 3e-6));
    b.launch(pause(rank, 1e-6 * (1 + i)));
    c.launch(pause(rank, 2e-6 + 1e-6 * rank.id()));
    const Event events[3] = {a.record(), b.record(), c.record()};
    notes.values.push_back(static_cast<double>(rank.wait_any(events)));
    notes.values.push_back(rank.wait(a.record(), Seconds(1e-6)) ? 10 : 20);
    rank.control_send(next, 9, {i});
    notes.values.push_back(rank.poll(c.record()) ? 30 : 40);
    rank.wait(a.record());
    rank.wait(b.record());
    rank.wait(c.record());
    notes.values.push_back(50 + i);
  }
  rank.join(listener);
}

WorldSetup waits_setup(int ranks) {
  WorldSetup setup = setup_for(ranks);
  setup.machine.host.control_latency = Time(500'000);
  return setup;
}

}  // namespace

TEST_CASE("signals order the flows of a rank alike in both worlds") {
  const WorldResult sim = run_in_sim(waits_setup(2), ping_pong);
  const WorldResult cpu = run_in_cpu(waits_setup(2), ping_pong);
  REQUIRE_MESSAGE(!sim.error, why(sim));
  REQUIRE_MESSAGE(!cpu.error, why(cpu));
  CHECK(sim.noted() == std::vector(2, 3070.0));
  CHECK(cpu.noted() == sim.noted());
  CHECK(sim.end == 30'000'000);
}

TEST_CASE("any-source receives take messages as they come, each once") {
  const WorldResult sim = run_in_sim(waits_setup(6), hear_all);
  REQUIRE_FALSE(sim.error.has_value());
  CHECK(sim.notes[0].values == std::vector<double>{5, 50, 4, 40, 3, 30, 2, 20, 1, 10});
  const WorldResult cpu = run_in_cpu(waits_setup(6), hear_all);
  REQUIRE_FALSE(cpu.error.has_value());
  std::vector<double> heard = cpu.notes[0].values, told = sim.notes[0].values;
  std::sort(heard.begin(), heard.end());
  std::sort(told.begin(), told.end());
  CHECK(heard == told);
  const WorldResult again = run_in_cpu(
      replaying(waits_setup(6), run_in_sim(recording(waits_setup(6)), hear_all)), hear_all);
  CHECK(again.noted() == sim.noted());
}

TEST_CASE("wait_any takes the first event in order of the list among those that are done") {
  const SharedProgram program = [](Rank& rank, RankNotes& notes) {
    Stream &a = rank.stream("a"), &b = rank.stream("b"), &c = rank.stream("c");
    a.launch(pause(rank, 3e-6));
    b.launch(pause(rank, 2e-6));
    c.launch(pause(rank, 2e-6));
    const Event all[3] = {a.record(), b.record(), c.record()}, late[2] = {c.record(), a.record()};
    notes.values.push_back(static_cast<double>(rank.wait_any(all)));
    notes.values.push_back(rank.now().value * 1e6);
    notes.values.push_back(static_cast<double>(rank.wait_any(late)));
    rank.wait(a.record());
    notes.values.push_back(static_cast<double>(rank.wait_any(all)));
  };
  const WorldResult sim = run_in_sim(waits_setup(1), program);
  REQUIRE(sim.noted().size() == 4);
  CHECK(sim.noted()[0] == 1);
  CHECK(sim.noted()[1] == doctest::Approx(2));
  CHECK(sim.noted()[2] == 0);
  CHECK(sim.noted()[3] == 0);
}

TEST_CASE("deadlines in sim are exact: an event at the deadline is in time") {
  const SharedProgram program = [](Rank& rank, RankNotes& notes) {
    Stream& s = rank.stream("s");
    s.launch(pause(rank, 5e-6));
    notes.values.push_back(rank.wait(s.record(), Seconds(2e-6)) ? 1 : 0);
    notes.values.push_back(std::round(rank.now().value * 1e9));
    notes.values.push_back(rank.wait(s.record(), Seconds(3e-6)) ? 1 : 0);
    notes.values.push_back(std::round(rank.now().value * 1e9));
    notes.values.push_back(rank.control_receive(1, any_source, Seconds(1e-6)) ? 1 : 0);
    rank.sleep(Seconds(2e-6));
    notes.values.push_back(std::round(rank.now().value * 1e9));
  };
  const WorldResult sim = run_in_sim(waits_setup(1), program);
  CHECK(sim.noted() == std::vector<double>{0, 2000, 1, 5000, 0, 8000});
}

TEST_CASE("decisions of two flows recorded in sim are followed on the CPU") {
  const WorldResult sim = run_in_sim(recording(waits_setup(3)), decide);
  REQUIRE_MESSAGE(!sim.error, why(sim));
  const WorldResult cpu = run_in_cpu(replaying(waits_setup(3), sim), decide);
  REQUIRE_MESSAGE(!cpu.error, why(cpu));
  CHECK(cpu.noted() == sim.noted());
}

TEST_CASE("decisions of two flows recorded on the CPU are followed in sim") {
  const WorldResult cpu = run_in_cpu(recording(waits_setup(3)), decide);
  REQUIRE_MESSAGE(!cpu.error, why(cpu));
  const WorldResult sim = run_in_sim(replaying(waits_setup(3), cpu), decide);
  REQUIRE_MESSAGE(!sim.error, why(sim));
  CHECK(sim.noted() == cpu.noted());
}

TEST_CASE("a failing kernel poisons what depends on it, with one error in both worlds") {
  const SharedProgram program = [](Rank& rank, RankNotes& notes) {
    Stream &a = rank.stream("a"), &b = rank.stream("b");
    const Tensor t = toy::vector(rank, a, 4, "t");
    toy::fill(rank, a, t, 1);
    const Event before = a.record();
    a.launch(toy::kernel(rank, "fails", Seconds(1e-6), {Role::update},
                         [](std::span<const View>) {
                           throw Error(Category::invalid_program, "the kernel broke");
                         }),
             {t});
    rank.wait(before);  // what came before is untouched
    notes.values.push_back(1);
    b.after(a.record());
    b.launch(rank.prepare(Kernel::fill(4, 2, Dtype::fp32)), {t});
    rank.wait(b.record());
    notes.values.push_back(2);  // never
  };
  for (const auto& result :
       {run_in_sim(waits_setup(1), program), run_in_cpu(waits_setup(1), program)}) {
    REQUIRE(result.error.has_value());
    CHECK(result.error->category() == Category::invalid_program);
    CHECK(result.error->message().find("the kernel broke") != std::string::npos);
    CHECK(result.error->context("rank") == "0");
  }
}
