// What can never finish is found at once, named, and ends the run.
#include <atomic>

#include "tests/cpu/cpu_world.hpp"

using namespace orrery;

namespace {

void check_deadlock(const std::optional<Error>& error, const std::vector<std::string>& parts) {
  REQUIRE(error);
  CHECK(error->category() == Category::deadlock);
  CHECK(mentions(*error, parts));
}

}  // namespace

TEST_CASE("a collective that one rank never issues is a deadlock that names it") {
  check_deadlock(
      error_of([] {
        run_cpu(3, [](Rank& rank) {
          Channel& channel = rank.channel(Axis::replicate, "gradients");
          Stream& comm = rank.stream("comm");
          const Tensor x = make(rank, comm, 8);
          if (rank.id() != 1) rank.wait(comm.all_reduce(x, Reduce::sum, channel));
        });
      }),
      {"rank 0 stream comm", "rank 2 stream comm", "all_reduce #0 on replicate/gradients",
       "not issued by rank 1", "rank 0 flow main", "deadlock_test.cpp"});
}

TEST_CASE("the same without a wait is found when the streams are drained") {
  check_deadlock(error_of([] {
                   run_cpu(2, [](Rank& rank) {
                     Channel& channel = rank.channel(Axis::replicate, "gradients");
                     Stream& comm = rank.stream("comm");
                     const Tensor x = make(rank, comm, 8);
                     if (rank.id() == 0) comm.all_reduce(x, Reduce::sum, channel);
                   });
                 }),
                 {"not issued by rank 1", "the end of the program"});
}

TEST_CASE("sends in a ring before their receives on one stream are a deadlock") {
  check_deadlock(error_of([] {
                   run_cpu(options_for(Axis::pipeline, 2), [](Rank& rank) {
                     Channel& forward = rank.edge(Axis::pipeline, 1, "forward");
                     Stream& p2p = rank.stream("p2p");
                     const Tensor x = make(rank, p2p, 8), y = make(rank, p2p, 8);
                     p2p.send(x, forward);
                     p2p.receive(y, forward);
                     rank.wait(p2p.record());
                   });
                 }),
                 {"rank 0 stream p2p", "rank 1 stream p2p", "send #0 on pipeline+1/forward",
                  "not reached by the stream of rank"});
}

TEST_CASE("the same sends on streams of their own are not") {
  std::atomic<int> ended{0};
  run_cpu(options_for(Axis::pipeline, 2), [&](Rank& rank) {
    Channel& forward = rank.edge(Axis::pipeline, 1, "forward");
    Stream& out = rank.stream("out");
    Stream& in = rank.stream("in");
    const Tensor x = make(rank, out, 8), y = make(rank, in, 8);
    out.send(x, forward);
    rank.wait(in.receive(y, forward));
    ++ended;
  });
  CHECK(ended == 2);
}

TEST_CASE("an event that waits for a message-dependent collective can never finish") {
  check_deadlock(error_of([] {
                   run_cpu(2, [](Rank& rank) {
                     Channel& channel = rank.channel(Axis::replicate, "x");
                     Stream& comm = rank.stream("comm");
                     Stream& compute = rank.stream("compute");
                     const Tensor x = make(rank, comm, 8);
                     if (rank.id() == 1) rank.control_receive(7, 0);
                     compute.after(comm.all_reduce(x, Reduce::sum, channel));
                     rank.wait(compute.record());
                     rank.control_send(1, 7, {1});
                   });
                 }),
                 {"rank 0 stream compute", "waits for operation", "of stream comm",
                  "rank 1 flow main", "a message with tag 7 from 0"});
}

TEST_CASE("a message that never comes is a deadlock, and a deadline prevents it") {
  check_deadlock(error_of([] { run_cpu(1, [](Rank& rank) { rank.control_receive(3); }); }),
                 {"rank 0 flow main", "a message with tag 3 from anyone"});
  std::atomic<int> none{0};
  run_cpu(2, [&](Rank& rank) {
    if (!rank.control_receive(3, any_source, Seconds(1e-3))) ++none;
  });
  CHECK(none == 2);
}

TEST_CASE("flows that wait for each other's signals are a deadlock") {
  check_deadlock(error_of([] {
                   run_cpu(1, [](Rank& rank) {
                     Signal& a = rank.signal("a");
                     Signal& b = rank.signal("b");
                     const Task task = rank.fork("gossip", [&] {
                       rank.wait(a);
                       rank.raise(b);
                     });
                     rank.wait(b);
                     rank.raise(a);
                     rank.join(task);
                   });
                 }),
                 {"rank 0 flow main", "signal b", "rank 0 flow gossip", "signal a"});
}

TEST_CASE("a deadline that is still to come is no deadlock; the flow it wakes may resolve all") {
  std::atomic<int> ended{0};
  run_cpu(3, [&](Rank& rank) {
    if (rank.id() == 0) {
      rank.sleep(Seconds(2e-3));
      rank.control_send(1, 1, {42});
    } else if (rank.id() == 1) {
      const auto message = rank.control_receive(1);
      rank.control_send(2, 1, message->values);
    } else if (rank.control_receive(1, 1)->values[0] == 42) {
      ++ended;
    }
  });
  CHECK(ended == 1);
}

// With a channel that notices it; tests/parity/rank_lost_test.cpp has what programs do then.
TEST_CASE("a rank that ends is lost to those that wait for it, whoever comes to it when") {
  std::atomic<int> lost{0};
  run_cpu(4, [&](Rank& rank) {
    Channel& channel = rank.channel(Axis::replicate, "gradients");
    Stream& comm = rank.stream("comm");
    const Tensor x = make(rank, comm, 8);
    rank.notice_losses(channel, Seconds(1e-3));
    rank.sleep(Seconds(5e-4 * rank.id()));
    if (rank.id() % 2 == 1) return;
    for (int i = 0; i < 3; ++i) comm.all_reduce(x, Reduce::sum, channel);
    for (int i = 0; i < 3; ++i) try {
        rank.wait(comm.record());
      } catch (const RankLost& gone) {
        if (gone.ranks() == std::vector<int>{1, 3}) ++lost;
      }
    rank.regroup(channel, {0, 2});
    rank.wait(comm.all_reduce(x, Reduce::sum, channel));
  });
  CHECK(lost == 6);
}

TEST_CASE("a service that waits does not hide a deadlock") {
  const auto error = error_of([] {
    const auto world = make_cpu_world(options_for(Axis::replicate, 1));
    world->add_service("tracker", [](Service& service) { service.control_receive(1); });
    world->run([](Rank& rank) { rank.control_receive(9, rank.service("tracker")); });
  });
  check_deadlock(error, {"rank 0 flow main", "service tracker", "a message with tag 1"});
}

TEST_CASE("each side of a transfer that cannot go on is named as that side issued it") {
  // Both send first, on one stream each. Which side of a transfer is issued first is chance.
  const auto error = error_of([] {
    run_cpu(2, [](Rank& rank) {
      Channel& ring = rank.edge(Axis::replicate, +1, "ring");
      Stream& s = rank.stream("s");
      const Tensor t = rank.allocate(s, Label::communication, 4, Dtype::fp32);
      const Tensor u = rank.allocate(s, Label::communication, 4, Dtype::fp32);
      s.send(t, ring);
      rank.wait(s.receive(u, ring));
    });
  });
  check_deadlock(error, {"rank 0 stream s", "rank 1 stream s", "in send #0 on replicate+1/ring"});
  CHECK_FALSE(mentions(*error, {"in receive"}));
}

TEST_CASE("a message that nobody receives is reported with sender, receiver and tag") {
  const auto error = error_of([] {
    run_cpu(2, [](Rank& rank) {
      if (rank.id() == 0) rank.control_send(1, 17, {1, 2});
    });
  });
  REQUIRE(error);
  CHECK(error->category() == Category::mismatch);
  CHECK(mentions(
      *error, {"message never received", "from rank 0", "to rank 1", "17", "deadlock_test.cpp"}));
}

TEST_CASE("deadlocks are found again and again without a false alarm between") {
  for (int repeat = 0; repeat < 30; ++repeat) {
    const bool bad = repeat % 2 == 0;
    const auto error = error_of([&] {
      run_cpu(4, [&](Rank& rank) {
        Channel& channel = rank.channel(Axis::replicate, "x");
        Stream& comm = rank.stream("comm");
        Stream& compute = rank.stream("compute");
        const Tensor x = make(rank, comm, 8);
        for (int i = 0; i < 20; ++i) {
          if (bad && rank.id() == 3 && i == 13) break;
          comm.after(compute.record());
          compute.after(comm.all_reduce(x, Reduce::mean, channel));
          if (i % 5 == rank.id()) rank.wait(compute.record());
        }
      });
    });
    CHECK(error.has_value() == bad);
    if (error) CHECK(error->category() == Category::deadlock);
  }
}
