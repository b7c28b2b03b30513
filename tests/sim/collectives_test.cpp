#include <doctest/doctest.h>

#include "tests/sim/simulate.hpp"
#include "tests/support/near.hpp"

namespace orrery {

namespace {

Time all_reduce_time(int ranks, std::int64_t bytes, Fidelity fidelity) {
  const std::string text = in_child([=] {
    Simulation simulation(ranks);
    simulation.options.fidelity = fidelity;
    const RunReport report = simulation.run([&](Rank& rank) {
      Channel& data = rank.channel(Axis::replicate, "data");
      Stream& comm = rank.stream("comm");
      comm.all_reduce(rank.allocate(comm, Label::gradients, bytes / 4, Dtype::fp32), Reduce::sum,
                      data);
    });
    return std::to_string(report.end.picoseconds);
  });
  return Time(std::stoull(text));
}

}  // namespace

TEST_CASE("a ring all-reduce takes 2(P-1)(alpha + S/(P B)) in every fidelity") {
  for (int ranks = 2; ranks <= 64; ++ranks) {
    CAPTURE(ranks);
    const std::int64_t chunk = 250'000;
    const auto steps = static_cast<std::uint64_t>(2 * (ranks - 1));
    const Time expected = (2_us + Time(250'000 * 20)) * steps;
    CHECK(all_reduce_time(ranks, chunk * ranks, Fidelity::analytic) == expected);
    CHECK(all_reduce_time(ranks, chunk * ranks, Fidelity::flow) == expected);
    CHECK(all_reduce_time(ranks, chunk * ranks, Fidelity::messages) == expected);
  }
}

TEST_CASE("the ring plan's steps and volumes are those of the ring algorithm") {
  const BytesPerSecond rate(1e9);
  const auto plan = [&](Collective kind, int members) {
    return ring_plan(kind, Bytes(12'000), members, 1_us, rate);
  };
  CHECK(plan(Collective::all_reduce, 4).steps == 6);
  CHECK(plan(Collective::all_reduce, 4).volume == Bytes(18'000));
  CHECK(plan(Collective::all_reduce, 4).total == 24_us);
  CHECK(plan(Collective::all_gather, 4).total == 12_us);
  CHECK(plan(Collective::reduce_scatter, 4).total == 12_us);
  CHECK(plan(Collective::all_to_all, 4).total == 12_us);
  CHECK(plan(Collective::broadcast, 4).total == 15_us);  // alpha 3 times, the buffer once
  CHECK(plan(Collective::send, 2).total == 13_us);
  CHECK(plan(Collective::exchange, 4).total == 13_us);
  CHECK(plan(Collective::all_reduce, 1).total == Time{});
  CHECK(ring_plan(Collective::all_gather, Bytes(10), 4, Time{}, rate).volume == Bytes(9));
}

TEST_CASE("a collective begins when its last member has come") {
  Simulation simulation(4);
  const RunReport report = simulation.run([](Rank& rank) {
    Channel& data = rank.channel(Axis::replicate, "data");
    Stream& comm = rank.stream("comm");
    comm.launch(timed(rank, "late", 10.0 * rank.id()));
    comm.all_gather(rank.allocate(comm, Label::parameters, 400'000, Dtype::fp32),
                    rank.allocate(comm, Label::parameters, 100'000, Dtype::fp32), data);
    rank.wait(comm.record());
    CHECK(rank.now().value == near((30 + 3 * (2 + 8)) * 1e-6, 1e-6));
  });
  CHECK(report.end == 60_us);
  for (const RankReport& rank : report.ranks) {
    CHECK(rank.channels.at(0).use.busy == 30_us);
    CHECK(rank.channels.at(0).use.calls == 1);
    CHECK(rank.channels.at(0).use.bytes == Bytes(1'200'000));
  }
}

TEST_CASE("a send is a rendezvous: both sides end together, alpha and size after the later one") {
  Simulation simulation(2, Axis::pipeline);
  const RunReport report = simulation.run([](Rank& rank) {
    Channel& forward = rank.edge(Axis::pipeline, 1, "forward");
    Stream& comm = rank.stream("comm");
    Tensor x = rank.allocate(comm, Label::activations, 100'000, Dtype::bf16);  // 4 us
    if (rank.id() == 0) {
      comm.send(x, forward);
    } else {
      comm.launch(timed(rank, "busy", 5));
      comm.receive(x, forward);
    }
    rank.wait(comm.record());
    CHECK(rank.now().value == near(11e-6, 1e-6));
  });
  CHECK(report.end == 11_us);
}

TEST_CASE("two rings over the same links share them, analytic ones do not notice each other") {
  const auto run = [](Fidelity fidelity) {
    return in_child([=] {
      Simulation simulation(4);
      simulation.options.fidelity = fidelity;
      const RunReport report = simulation.run([](Rank& rank) {
        Stream* streams[2] = {&rank.stream("one"), &rank.stream("two")};
        Channel* channels[2] = {&rank.channel(Axis::replicate, "one"),
                                &rank.channel(Axis::replicate, "two")};
        for (int i = 0; i < 2; ++i)
          streams[i]->all_reduce(
              rank.allocate(*streams[i], Label::gradients, 1'000'000, Dtype::fp32), Reduce::sum,
              *channels[i]);
      });
      return std::to_string(report.end.picoseconds);
    });
  };
  const std::uint64_t alpha = 12'000'000, transfer = 120'000'000;  // 6 steps of 1 MB at 20 ps
  CHECK(run(Fidelity::analytic) == std::to_string(alpha + transfer));
  CHECK(run(Fidelity::flow) == std::to_string(alpha + 2 * transfer));
  CHECK(run(Fidelity::messages) == std::to_string(alpha + 2 * transfer));
}

TEST_CASE("fidelity can be chosen per group") {
  Simulation simulation(2, Axis::pipeline);
  simulation.machine.gpus = 4;
  simulation.world.grid.set(Axis::replicate, 2);
  simulation.options.groups = {{"pipeline+1", Fidelity::flow}};
  const RunReport report = simulation.run([](Rank& rank) {
    Channel& data = rank.channel(Axis::replicate, "data");
    Channel& ring = rank.edge(Axis::pipeline, 1, "ring");
    Stream& comm = rank.stream("comm");
    Stream& out = rank.stream("out");
    Stream& in = rank.stream("in");
    comm.all_reduce(rank.allocate(comm, Label::gradients, 1000, Dtype::fp32), Reduce::sum, data);
    out.send(rank.allocate(out, Label::activations, 1000, Dtype::fp32), ring);
    in.receive(rank.allocate(in, Label::activations, 1000, Dtype::fp32), ring);
  });
  CHECK(report.flows == 4);
}

TEST_CASE("four senders into one link take four times as long, in flow fidelity") {
  Simulation simulation(5, Axis::pipeline);
  simulation.options.fidelity = Fidelity::flow;
  const RunReport report = simulation.run([](Rank& rank) {
    // Rank r sends to rank 0 over the edge with offset -r.
    std::vector<Channel*> edges;
    for (int i = 1; i < 5; ++i) edges.push_back(&rank.edge(Axis::pipeline, -i, "incast"));
    for (int i = 1; i < 5; ++i) {
      Stream& stream = rank.stream("s" + std::to_string(i));
      Tensor x = rank.allocate(stream, Label::activations, 250'000, Dtype::fp32);  // 20 us alone
      if (rank.id() == i) stream.send(x, *edges[static_cast<std::size_t>(i - 1)]);
      if (rank.id() == 0) stream.receive(x, *edges[static_cast<std::size_t>(i - 1)]);
    }
  });
  CHECK(report.end == 82_us);
}

TEST_CASE("an exchange takes the time of one direction, and only the pair takes part") {
  for (const Fidelity fidelity : {Fidelity::analytic, Fidelity::flow, Fidelity::messages}) {
    CHECK(in_child([=] {
            Simulation simulation(4);
            simulation.options.fidelity = fidelity;
            const RunReport report = simulation.run([](Rank& rank) {
              Channel& gossip = rank.channel(Axis::replicate, "gossip");
              Stream& comm = rank.stream("comm");
              if (rank.id() == 1) return;
              if (rank.id() == 3) return;
              comm.exchange(rank.allocate(comm, Label::parameters, 50'000, Dtype::fp32),
                            rank.allocate(comm, Label::parameters, 50'000, Dtype::fp32),
                            2 - rank.id(), gossip);
            });
            return std::to_string(report.end.picoseconds);
          }) == "6000000");
  }
}

TEST_CASE("a group of one communicates in no time") {
  Simulation simulation(1);
  const RunReport report = simulation.run([](Rank& rank) {
    Channel& data = rank.channel(Axis::replicate, "data");
    Stream& comm = rank.stream("comm");
    Tensor x = rank.allocate(comm, Label::gradients, 1000, Dtype::fp32);
    for (int i = 0; i < 1000; ++i) comm.all_reduce(x, Reduce::sum, data);
  });
  CHECK(report.end == Time{});
  CHECK(report.activities == 1000);
}

TEST_CASE("an all_to_all in messages sends directly and takes its plan's time") {
  Simulation simulation(5);
  simulation.options.fidelity = Fidelity::messages;
  const RunReport report = simulation.run([](Rank& rank) {
    Channel& experts = rank.channel(Axis::replicate, "experts");
    Stream& comm = rank.stream("comm");
    comm.all_to_all(rank.allocate(comm, Label::activations, 250'000, Dtype::fp32),
                    rank.allocate(comm, Label::activations, 250'000, Dtype::fp32), experts);
  });
  CHECK(report.end == 24_us);  // 4 x (2 us + 200,000 x 20 ps)
  CHECK(report.flows == 20);
}

}  // namespace orrery
