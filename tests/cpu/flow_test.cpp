// Flows, the baton, signals, services and control messages of the CPU world.
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include "tests/cpu/cpu_world.hpp"

using namespace orrery;

TEST_CASE("flows of a rank run one at a time and switch at waits only") {
  std::atomic<int> inside{0}, violations{0};
  int unguarded = 0;  // the thread sanitizer watches it
  run_cpu(1, [&](Rank& rank) {
    const auto work = [&] {
      for (int i = 0; i < 50; ++i) {
        violations += inside++ == 0 ? 0 : 1;
        ++unguarded;
        --inside;
        rank.sleep(Seconds(0));
      }
    };
    const Task a = rank.fork("a", work), b = rank.fork("b", work);
    work();
    rank.join(a);
    rank.join(b);
  });
  CHECK(violations == 0);
  CHECK(unguarded == 150);
}

TEST_CASE("a flow whose message comes while another one runs waits for its turn") {
  std::atomic<bool> inside{false}, ran_beside{false};
  run_cpu(2, [&](Rank& rank) {
    if (rank.id() == 1) {
      rank.control_receive(1);
      rank.control_send(0, 2, {});
      return;
    }
    const Task other = rank.fork("other", [&] {
      rank.control_receive(2);
      ran_beside = inside.load();
    });
    for (int i = 0; i < 2; ++i) rank.sleep(Seconds(0));  // the other one waits, and is next in turn
    inside = true;
    rank.control_send(1, 1, {});
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the answer comes
    inside = false;
    rank.join(other);
  });
  CHECK_FALSE(ran_beside);
}

TEST_CASE("signals count, and pass work between flows") {
  std::vector<int> order;
  run_cpu(1, [&](Rank& rank) {
    Signal& go = rank.signal("go");
    Signal& done = rank.signal("done");
    const Task task = rank.fork("worker", [&] {
      for (int i = 0; i < 3; ++i) {
        rank.wait(go);
        order.push_back(2 * i + 1);
        rank.raise(done);
      }
    });
    for (int i = 0; i < 3; ++i) {
      order.push_back(2 * i);
      rank.raise(go);
      rank.wait(done);
    }
    rank.raise(go);  // one that nobody takes
    rank.join(task);
  });
  CHECK(order == std::vector<int>{0, 1, 2, 3, 4, 5});
}

TEST_CASE("a flow that was not joined is an error") {
  const auto error = error_of([] {
    run_cpu(1, [](Rank& rank) { rank.fork("lost", [&rank] { rank.wait(rank.signal("never")); }); });
  });
  REQUIRE(error);
  CHECK(error->category() == Category::invalid_program);
  CHECK(mentions(*error, {"lost"}));
}

TEST_CASE("an error of a forked flow is the run's") {
  const auto error = error_of([] {
    run_cpu(2, [](Rank& rank) {
      const Task task = rank.fork("gossip", [&rank] {
        if (rank.id() == 1) throw Error(Category::tolerance, "diverged");
        rank.wait(rank.signal("never"));
      });
      rank.join(task);
    });
  });
  REQUIRE(error);
  CHECK(error->message() == "diverged");
  CHECK(error->context("flow") == "gossip");
  CHECK(error->context("rank") == "1");
}

TEST_CASE("messages arrive in order, selected by tag and source") {
  std::atomic<int> wrong{0};
  run_cpu(3, [&](Rank& rank) {
    if (rank.id() != 0) {
      for (std::int64_t i = 0; i < 20; ++i) rank.control_send(0, static_cast<Tag>(i % 2), {i});
      return;
    }
    for (const int from : {2, 1})
      for (const Tag tag : {1, 0})
        for (std::int64_t i = tag; i < 20; i += 2)
          wrong += rank.control_receive(tag, from)->values[0] == i ? 0 : 1;
  });
  CHECK(wrong == 0);
}

TEST_CASE("a service answers, may wait with a deadline, and is unwound when the ranks have ended") {
  std::atomic<int> unwound{0}, answers{0}, timeouts{0};
  struct AtExit {
    std::atomic<int>& count;
    ~AtExit() { ++count; }
  };
  const auto world = make_cpu_world(options_for(Axis::replicate, 4));
  world->add_service("echo", [&](Service& service) {
    const AtExit at_exit{unwound};
    while (true) {
      const auto message = service.control_receive(1, any_source, Seconds(1e-4));
      if (!message)
        ++timeouts;
      else
        service.control_send(message->from, 2, message->values);
    }
  });
  world->add_service("quiet", [&](Service& service) {
    const AtExit at_exit{unwound};
    service.control_receive(99);
  });
  world->run([&](Rank& rank) {
    for (std::int64_t i = 0; i < 25; ++i) {
      rank.control_send(rank.service("echo"), 1, {i + rank.id()});
      answers += rank.control_receive(2)->values[0] == i + rank.id() ? 1 : 0;
    }
  });
  CHECK(unwound == 2);
  CHECK(answers == 100);
}

namespace {

constexpr Tag ready_tag = 1, partner_tag = 2;
constexpr int gossip_rounds = 30;

// Pairs ranks as they come; tells the odd one out that there is none left.
void matchmaker(Service& service, int ranks) {
  int waiting = -1, done = 0;
  const std::int64_t nobody[] = {-1};
  while (done < ranks) {
    const auto message = service.control_receive(ready_tag);
    const bool last = message->values[0] != 0;
    if (last) ++done;
    if (!last && waiting >= 0) {
      const std::int64_t first[] = {message->from}, second[] = {waiting};
      service.control_send(waiting, partner_tag, first);
      service.control_send(message->from, partner_tag, second);
      waiting = -1;
    } else if (!last) {
      waiting = message->from;
    }
    if (waiting >= 0 && done == ranks - 1) {
      service.control_send(waiting, partner_tag, nobody);
      waiting = -1;
    }
  }
}

}  // namespace

TEST_CASE("two flows gossip through a matchmaker with racy parameters and end, for 2 to 5 ranks") {
  for (int ranks = 2; ranks <= 5; ++ranks) {
    std::mutex mutex;
    std::vector<double> finals;
    const auto world = make_cpu_world(options_for(Axis::replicate, ranks));
    world->add_service("matchmaker", [&](Service& service) { matchmaker(service, ranks); });
    world->run([&](Rank& rank) {
      Channel& channel = rank.channel(Axis::replicate, "gossip");
      Stream& compute = rank.stream("compute");
      Stream& comm = rank.stream("comm");
      const Tensor x = make(rank, compute, 512), theirs = make(rank, comm, 512);
      fill(rank, compute, x, rank.id());
      rank.wait(compute.record());
      const Prepared mix = rank.prepare(Kernel::linear_combination(512, 0.5, 0.5, Dtype::fp32));
      const Prepared step = rank.prepare(Kernel::linear_combination(512, 0, 1, Dtype::fp32));
      bool more = true;
      const Task gossip = rank.fork("gossip", [&] {
        const int service = rank.service("matchmaker");
        while (more) {
          rank.control_send(service, ready_tag, {0});
          const std::int64_t partner = rank.control_receive(partner_tag, service)->values[0];
          if (partner < 0) break;
          comm.exchange(x.racy(), theirs, static_cast<int>(partner), channel);
          comm.launch(mix, {theirs, x.racy()});
          rank.wait(comm.record());
        }
        rank.control_send(service, ready_tag, {1});
      });
      const Tensor scratch = make(rank, compute, 512);
      fill(rank, compute, scratch, 0);
      for (int i = 0; i < gossip_rounds; ++i) {
        compute.launch(step, {scratch, x.racy()});
        rank.wait(compute.record());
      }
      more = false;
      rank.join(gossip);
      rank.wait(comm.record());
      const double value = rank.read(x)[511];
      const std::lock_guard lock(mutex);
      finals.push_back(value);
    });
    REQUIRE(finals.size() == static_cast<std::size_t>(ranks));
    for (const double value : finals) {
      CHECK(value >= 0);
      CHECK(value <= ranks - 1);
    }
  }
}

TEST_CASE("a recorded run of two flows is replayed hand-over by hand-over") {
  const auto program = [](std::vector<int>& order) {
    return [&order](Rank& rank) {
      Stream& compute = rank.stream("compute");
      const auto work = [&](int me) {
        for (int i = 0; i < 20; ++i) {
          order.push_back(me);
          compute.launch(action(rank, [] {}));
          if (i % 3 == 0)
            rank.sleep(Seconds(1e-5 * (me + 1)));
          else
            rank.wait(compute.record());
        }
      };
      const Task a = rank.fork("a", [&] { work(1); });
      const Task b = rank.fork("b", [&] { work(2); });
      work(0);
      rank.join(a);
      rank.join(b);
    };
  };
  WorldOptions options = options_for(Axis::replicate, 1);
  options.decisions = DecisionMode::record;
  std::vector<int> recorded;
  const RunReport report = run_cpu(options, program(recorded));
  REQUIRE(report.decisions.size() == 1);
  CHECK(report.decisions[0].decisions.size() >= 60);
  options.decisions = DecisionMode::replay;
  options.replay = decisions_from_text(to_text(report.decisions), "log");
  for (int repeat = 0; repeat < 5; ++repeat) {
    std::vector<int> replayed;
    run_cpu(options, program(replayed));
    CHECK(replayed == recorded);
  }
}

TEST_CASE("what a program learned from time is replayed in another run") {
  const auto program = [](std::vector<std::size_t>& seen) {
    return [&seen](Rank& rank) {
      Stream& a = rank.stream("a");
      Stream& b = rank.stream("b");
      for (int i = 0; i < 30; ++i) {
        a.launch(action(rank, [] {}));
        b.launch(action(rank, [] {}));
        const std::vector<Event> both{a.record(), b.record()};
        seen.push_back(rank.wait_any(both));
        seen.push_back(rank.poll(both[0]) ? 11 : 10);
        seen.push_back(rank.wait(both[1], Seconds(1e-6)) ? 21 : 20);
      }
    };
  };
  WorldOptions options = options_for(Axis::replicate, 1);
  options.decisions = DecisionMode::record;
  std::vector<std::size_t> recorded, replayed;
  const RunReport report = run_cpu(options, program(recorded));
  options.decisions = DecisionMode::replay;
  options.replay = report.decisions;
  run_cpu(options, program(replayed));
  CHECK(replayed == recorded);
}
