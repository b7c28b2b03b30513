#include <doctest/doctest.h>

#include "tests/sim/simulate.hpp"

namespace orrery {

namespace {

bool mentions(const Error& error, const std::string& text) {
  return std::string(error.what()).find(text) != std::string::npos;
}

std::string line_text(int line) { return "tests/sim/deadlock_test.cpp:" + std::to_string(line); }

}  // namespace

TEST_CASE(
    "a collective that a rank never issues is a deadlock that names the rank and both sites") {
  Simulation simulation(4);
  int collective = 0, waiting = 0;
  const Error error = error_of([&] {
    simulation.run([&](Rank& rank) {
      Channel& data = rank.channel(Axis::replicate, "data");
      Stream& comm = rank.stream("comm");
      Tensor x = rank.allocate(comm, Label::gradients, 8, Dtype::fp32);
      if (rank.id() != 2) comm.all_reduce(x, Reduce::sum, data), collective = __LINE__;
      comm.launch(timed(rank, "k", 1));
      waiting = __LINE__, rank.wait(comm.record());
    });
  });
  CHECK(error.category() == Category::deadlock);
  CHECK(mentions(error, line_text(collective)));
  CHECK(mentions(error, line_text(waiting)));
  CHECK(mentions(error, "lacks rank 2"));
  CHECK(mentions(error, "rank 0: waits for operation 2 of stream 0"));
  CHECK(mentions(error, "rank 3 stream comm: is at operation 1, all_reduce #0"));
  CHECK_FALSE(mentions(error, "rank 2: waits"));  // it has ended
  CHECK(error.context("time") == "1.000000 us");
}

TEST_CASE("two ranks that both send first on one stream deadlock, and both sites are named") {
  Simulation simulation(2, Axis::pipeline);
  int sends[2] = {};
  int receives[2] = {};
  const Error error = error_of([&] {
    simulation.run([&](Rank& rank) {
      Channel& ring = rank.edge(Axis::pipeline, 1, "ring");
      Stream& comm = rank.stream("comm");
      Tensor out = rank.allocate(comm, Label::activations, 8, Dtype::fp32);
      Tensor in = rank.allocate(comm, Label::activations, 8, Dtype::fp32);
      if (rank.id() == 0) {
        comm.send(out, ring), sends[0] = __LINE__;
        comm.receive(in, ring), receives[0] = __LINE__;
      } else {
        comm.send(out, ring), sends[1] = __LINE__;
        comm.receive(in, ring), receives[1] = __LINE__;
      }
    });
  });
  CHECK(error.category() == Category::deadlock);
  for (int i = 0; i < 2; ++i) {
    CHECK(mentions(error, line_text(sends[i])));
    CHECK(mentions(error, line_text(receives[i])));
  }
  CHECK(mentions(error, "rank 0: has ended; its streams have not"));
  CHECK(mentions(error, "reached by 1 of 2 streams"));
}

TEST_CASE("collectives on two channels in crossed order are a deadlock at issue, with both sites") {
  Simulation simulation(2);
  int lines[2] = {};
  const Error error = error_of([&] {
    simulation.run([&](Rank& rank) {
      Channel& a = rank.channel(Axis::replicate, "a");
      Channel& b = rank.channel(Axis::replicate, "b");
      Stream& one = rank.stream("one");
      Stream& two = rank.stream("two");
      Tensor x = rank.allocate(one, Label::gradients, 8, Dtype::fp32);
      Tensor y = rank.allocate(two, Label::gradients, 8, Dtype::fp32);
      if (rank.id() == 0) {
        one.all_reduce(x, Reduce::sum, a);
        lines[0] = __LINE__, two.all_reduce(y, Reduce::sum, b);
      } else {
        lines[1] = __LINE__, two.all_reduce(y, Reduce::sum, b);
        one.all_reduce(x, Reduce::sum, a);
      }
    });
  });
  CHECK(error.category() == Category::deadlock);
  CHECK(mentions(error, line_text(lines[0])));
  CHECK(mentions(error, line_text(lines[1])));
  CHECK(error.context("time") == "0.000000 us");
}

TEST_CASE("a rank that ends with an unmatched send is a deadlock that names the send") {
  Simulation simulation(2, Axis::pipeline);
  int send = 0;
  const Error error = error_of([&] {
    simulation.run([&](Rank& rank) {
      Channel& ring = rank.edge(Axis::pipeline, 1, "ring");
      Stream& comm = rank.stream("comm");
      Tensor x = rank.allocate(comm, Label::activations, 8, Dtype::fp32);
      if (rank.id() == 0) comm.send(x, ring), send = __LINE__;
    });
  });
  CHECK(error.category() == Category::deadlock);
  CHECK(mentions(error, "send, rank 0: " + line_text(send)));
  CHECK(mentions(error, "receive, rank 1: not issued"));
  CHECK(mentions(error, "lacks rank 1"));
}

TEST_CASE("a control message that is never sent is a deadlock that names tag and site") {
  Simulation simulation(2);
  int receive = 0;
  const Error error = error_of([&] {
    simulation.run([&](Rank& rank) {
      if (rank.id() == 1) receive = __LINE__, rank.control_receive(7, 0);
    });
  });
  CHECK(error.category() == Category::deadlock);
  CHECK(mentions(error, "a message with tag 7 from 0"));
  CHECK(mentions(error, line_text(receive)));
}

TEST_CASE("a control message that nobody receives is a mismatch, under way or delivered") {
  const auto run = [](bool late) {
    return in_child([=] {
      Simulation simulation(2);
      simulation.machine.host.control_latency = 5_us;
      const Error error = error_of([&] {
        simulation.run([&](Rank& rank) {
          if (rank.id() == 0) rank.control_send(1, 9, {1, 2, 3});
          if (!late) rank.sleep(us(10));
        });
      });
      return std::string(name(error.category())) + " " + error.context("lost");
    });
  };
  // The site is the sender's.
  CHECK(run(false).starts_with("mismatch message with tag 9 from 0 to 1 (tests/sim/deadlock_test"));
  CHECK(run(true).ends_with("), still under way"));
}

TEST_CASE("a signal that is never raised is a deadlock that names it, its flow and both sites") {
  Simulation simulation(1);
  int wait = 0, join = 0;
  const Error error = error_of([&] {
    simulation.run([&](Rank& rank) {
      Signal& ready = rank.signal("ready");
      Task task = rank.fork("gossip", [&] { wait = __LINE__, rank.wait(ready); });
      join = __LINE__, rank.join(task);
    });
  });
  CHECK(error.category() == Category::deadlock);
  CHECK(mentions(error, "rank 0 flow gossip: waits for signal ready (" + line_text(wait)));
  CHECK(mentions(error, "rank 0 flow main: waits for the end of flow 1 (" + line_text(join)));
}

TEST_CASE("in a deadlock of many ranks sixteen are named and the others counted") {
  Simulation simulation(100);
  const Error error =
      error_of([&] { simulation.run([&](Rank& rank) { rank.control_receive(1); }); });
  CHECK(mentions(error, "rank 15: waits"));
  CHECK_FALSE(mentions(error, "rank 16: waits"));
  CHECK(error.context("ranks") == "and 84 more");
}

TEST_CASE("members that issue different operations are a mismatch with both sites") {
  Simulation simulation(2);
  const Error error = error_of([&] {
    simulation.run([&](Rank& rank) {
      Channel& data = rank.channel(Axis::replicate, "data");
      Stream& comm = rank.stream("comm");
      Tensor x = rank.allocate(comm, Label::gradients, 8 + rank.id(), Dtype::fp32);
      comm.launch(timed(rank, "k", 3));
      rank.wait(comm.record());
      comm.all_reduce(x, Reduce::sum, data);
    });
  });
  CHECK(error.category() == Category::mismatch);
  CHECK(mentions(error, "all_reduce of 8 fp32"));
  CHECK(mentions(error, "all_reduce of 9 fp32"));
  CHECK(error.context("time") == "3.000000 us");
}

TEST_CASE(
    "a host that waits for room in a launch queue that cannot drain is part of the deadlock") {
  Simulation simulation(2);
  simulation.options.launch_queue = 4;
  const Error error = error_of([&] {
    simulation.run([&](Rank& rank) {
      Channel& data = rank.channel(Axis::replicate, "data");
      Stream& comm = rank.stream("comm");
      if (rank.id() == 1) return;
      comm.all_reduce(rank.allocate(comm, Label::gradients, 8, Dtype::fp32), Reduce::sum, data);
      for (int i = 0; i < 10; ++i) comm.launch(timed(rank, "k", 1));
    });
  });
  CHECK(error.category() == Category::deadlock);
  CHECK(error.context("rank 0") == "waits for room in the launch queue of stream comm");
}

TEST_CASE("a flow that is not joined ends the run as an invalid program") {
  Simulation simulation(1);
  const Error error = error_of([&] {
    simulation.run([&](Rank& rank) { rank.fork("gossip", [&] { rank.sleep(us(5)); }); });
  });
  CHECK(error.category() == Category::invalid_program);
  CHECK(mentions(error, "gossip"));
}

}  // namespace orrery
