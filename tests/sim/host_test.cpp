#include <doctest/doctest.h>

#include <numeric>

#include "tests/sim/simulate.hpp"
#include "tests/support/near.hpp"

namespace orrery {

TEST_CASE("short kernels are bound by their launches, long ones are not") {
  const auto run = [](double microseconds) {
    return in_child([=] {
      Simulation simulation(1);
      simulation.machine.host.launch = 4_us;
      simulation.options.host_clock = true;
      const RunReport report = simulation.run([&](Rank& rank) {
        Stream& compute = rank.stream("compute");
        const Prepared kernel = timed(rank, "k", microseconds);
        for (int i = 0; i < 100; ++i) compute.launch(kernel);
        compute.mark_step(0);
      });
      const StepMark& mark = report.ranks[0].steps.at(0);
      return std::to_string(mark.at.picoseconds) + " " +
             std::to_string(mark.parts.compute.picoseconds) + " " +
             std::to_string(mark.parts.overhead.picoseconds);
    });
  };
  CHECK(run(1) == "401000000 100000000 301000000");
  CHECK(run(10) == "1004000000 1000000000 4000000");
}

TEST_CASE("a blocking wait ends when both the host and the operation are there, plus its cost") {
  Simulation simulation(1);
  simulation.machine.host = {1_us, 2_us, 3_us, 0_us};
  simulation.options.host_clock = true;
  simulation.run([](Rank& rank) {
    Stream& compute = rank.stream("compute");
    compute.launch(timed(rank, "k", 5));  // issued at 1, ends at 6
    rank.wait(compute.record());
    CHECK(rank.now().value == near(9e-6, 1e-6));
    compute.launch(timed(rank, "short", 0.5));  // 10 to 10.5
    const Event early = compute.record();
    for (int i = 0; i < 4; ++i) compute.launch(timed(rank, "short", 0.5));  // issued until 14
    rank.wait(early);
    CHECK(rank.now().value == near(17e-6, 1e-6));
  });
}

TEST_CASE("a poll sees the device as it is at the host's clock") {
  Simulation simulation(1);
  simulation.machine.host.launch = 1_us;
  simulation.options.host_clock = true;
  simulation.run([](Rank& rank) {
    Stream& compute = rank.stream("compute");
    Stream& other = rank.stream("other");
    compute.launch(timed(rank, "k", 5));  // 1 to 6
    const Event event = compute.record();
    int launches = 0;
    while (!rank.poll(event)) {
      other.launch(timed(rank, "k", 0.1));
      ++launches;
    }
    CHECK(launches == 5);
    CHECK(rank.now().value == near(6e-6, 1e-6));
  });
}

TEST_CASE("a timed wait ends by the event or by its deadline, and at a tie by the event") {
  Simulation simulation(1);
  simulation.run([](Rank& rank) {
    Stream& compute = rank.stream("compute");
    compute.launch(timed(rank, "k", 5));
    const Event event = compute.record();
    CHECK_FALSE(rank.wait(event, us(2)));
    CHECK(rank.now() == us(2));
    CHECK(rank.wait(event, us(3)));
    CHECK(rank.now() == us(5));
    rank.sleep(us(1));
    CHECK(rank.now().value == near(6e-6, 1e-6));
    compute.launch(timed(rank, "a", 3));
    const Event a = compute.record();
    compute.launch(timed(rank, "b", 3));
    const Event events[2] = {compute.record(), a};
    CHECK(rank.wait_any(events) == 1);
    CHECK(rank.now().value == near(9e-6, 1e-6));
    CHECK_FALSE(rank.control_receive(1, any_source, us(0.5)).has_value());
  });
}

TEST_CASE("control messages take their latency, and a service answers them") {
  Simulation simulation(3);
  simulation.machine.host.control_latency = 10_us;
  simulation.services.emplace_back("matchmaker", [](Service& service) {
    int served = 0;
    while (const auto message = service.control_receive(1)) {
      const std::int64_t answer[1] = {message->values[0] + 100};
      service.control_send(message->from, 2, answer);
      ++served;
    }
    CHECK(served == -1);  // never: it is unwound from its receive
  });
  simulation.run([](Rank& rank) {
    rank.sleep(us(rank.id()));
    rank.control_send(rank.service("matchmaker"), 1, {rank.id()});
    const auto answer = rank.control_receive(2);
    REQUIRE(answer.has_value());
    CHECK(answer->values == std::vector<std::int64_t>{100 + rank.id()});
    CHECK(answer->from == 3);
    CHECK(rank.now().value == near((rank.id() + 20) * 1e-6, 1e-6));
  });
}

TEST_CASE(
    "a service ends with the ranks, also from a timed receive, having read what was sent last") {
  Simulation simulation(2);
  simulation.machine.host.control_latency = 1_us;
  int received = 0, idle = 0;
  simulation.services.emplace_back("tracker", [&](Service& service) {
    for (;;) service.control_receive(1, any_source, us(3)) ? ++received : ++idle;
  });
  simulation.run([](Rank& rank) {
    rank.sleep(us(10));
    rank.control_send(2, 1, {});
  });
  CHECK(received == 2);
  CHECK(idle == 3);
}

TEST_CASE("flows of a rank run one at a time and switch at waits only") {
  Simulation simulation(1);
  simulation.options.launch_queue = 4;
  std::string order;
  simulation.run([&](Rank& rank) {
    Stream& compute = rank.stream("compute");
    Stream& other = rank.stream("other");
    const Prepared kernel = timed(rank, "k", 1);
    Task task = rank.fork("second", [&] {
      order += "b";
      rank.sleep(us(1));
      order += "b";
    });
    order += "a";
    for (int i = 0; i < 10; ++i) compute.launch(kernel);  // waits for room: no switch
    order += "a";
    other.launch(kernel);
    rank.wait(other.record());
    order += "a";
    rank.join(task);
    order += "a";
  });
  CHECK(order == "aababa");
}

TEST_CASE("a signal counts, and each wait takes one") {
  Simulation simulation(1);
  int taken = 0;
  simulation.run([&](Rank& rank) {
    Signal& ready = rank.signal("ready");
    Task task = rank.fork("taker", [&] {
      for (int i = 0; i < 3; ++i) {
        rank.wait(ready);
        ++taken;
      }
      CHECK(rank.now().value == near(2e-6, 1e-6));
    });
    rank.raise(ready);
    rank.raise(ready);
    rank.sleep(us(2));
    CHECK(taken == 2);
    rank.raise(ready);
    rank.join(task);
  });
  CHECK(taken == 3);
}

// They share a thread of the host: what one issues between two waits delays the others.
TEST_CASE("flows take turns on the host: one begins when the other waits, and both end then") {
  Simulation simulation(1);
  simulation.machine.host.launch = 1_us;
  simulation.options.host_clock = true;
  simulation.run([](Rank& rank) {
    Stream& one = rank.stream("one");
    Stream& two = rank.stream("two");
    Task task = rank.fork("second", [&] {
      for (int i = 0; i < 3; ++i) two.launch(timed(rank, "k", 1));
      CHECK(rank.now().value == near(13e-6, 1e-9));
    });
    for (int i = 0; i < 10; ++i) one.launch(timed(rank, "k", 0.5));
    CHECK(rank.now().value == near(10e-6, 1e-9));
    rank.join(task);
    CHECK(rank.now().value == near(13e-6, 1e-9));
  });
}

TEST_CASE("a recorded run replays: flows take turns as they did, whatever time things take") {
  const auto program = [](Rank& rank, double slowness, std::string& path) {
    Stream& compute = rank.stream("compute");
    Stream& comm = rank.stream("comm");
    Task task = rank.fork("gossip", [&] {
      for (int i = 0; i < 4; ++i) {
        comm.launch(timed(rank, "g", 2));
        rank.wait(comm.record());
        path += "g";
      }
    });
    for (int i = 0; i < 5; ++i) {
      compute.launch(timed(rank, "batch", 3 * slowness));
      rank.wait(compute.record());
      path += "b";
    }
    rank.join(task);
    path += ".";
  };
  const auto run = [&](double slowness, const std::string& log) {
    return in_child([&] {
      Simulation simulation(1);
      simulation.world.decisions = log.empty() ? DecisionMode::record : DecisionMode::replay;
      if (!log.empty()) simulation.world.replay = decisions_from_text(log, "recorded");
      std::string path;
      const RunReport report = simulation.run([&](Rank& rank) { program(rank, slowness, path); });
      return path + "\n" + to_text(report.decisions);
    });
  };
  const std::string recorded = run(1, "");
  const std::string path = recorded.substr(0, recorded.find('\n'));
  const std::string log = recorded.substr(recorded.find('\n') + 1);
  CHECK(path == "gbgbggbbb.");  // at 6 us both can run: it is the turn of the main flow
  CHECK(run(0.1, "").substr(0, path.size()) != path);
  CHECK(run(0.1, log).substr(0, path.size()) == path);
  CHECK(run(7, log).substr(0, path.size()) == path);
}

TEST_CASE("a recorded run replays its polls in a rank with one flow") {
  const auto run = [&](double microseconds, const std::string& log) {
    return in_child([&] {
      Simulation simulation(1);
      simulation.world.decisions = log.empty() ? DecisionMode::record : DecisionMode::replay;
      if (!log.empty()) simulation.world.replay = decisions_from_text(log, "recorded");
      int batches = 0;
      const RunReport report = simulation.run([&](Rank& rank) {
        Stream& compute = rank.stream("compute");
        Stream& comm = rank.stream("comm");
        comm.launch(timed(rank, "transfer", 10));
        do {
          compute.launch(timed(rank, "batch", microseconds));
          rank.wait(compute.record());
          ++batches;
        } while (!rank.poll(comm.record()));
      });
      return std::to_string(batches) + "\n" + to_text(report.decisions);
    });
  };
  const std::string recorded = run(3, "");
  CHECK(recorded.substr(0, 2) == "4\n");
  const std::string log = recorded.substr(2);
  CHECK(run(1, log).substr(0, 2) == "4\n");
  CHECK(run(20, log).substr(0, 2) == "4\n");
}

}  // namespace orrery
