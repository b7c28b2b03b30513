#include <doctest/doctest.h>

#include "tests/sim/simulate.hpp"
#include "tests/support/near.hpp"

namespace orrery {

TEST_CASE("operations of a stream run one after the other, from time 0") {
  Simulation simulation(1);
  const RunReport report = simulation.run([](Rank& rank) {
    Stream& compute = rank.stream("compute");
    compute.launch(timed(rank, "a", 3));
    compute.launch(timed(rank, "b", 4));
    rank.wait(compute.record());
    CHECK(rank.now().value == near(7e-6, 1e-6));
    compute.launch(timed(rank, "c", 1.000001));
    compute.mark_step(0);
  });
  CHECK(report.end == Time(8'000'001));
  CHECK(report.activities == 3);
  CHECK(report.ranks[0].steps.at(0).at == report.end);
}

TEST_CASE("streams run side by side, and a fence holds one until another has come so far") {
  Simulation simulation(1);
  const RunReport report = simulation.run([](Rank& rank) {
    Stream& one = rank.stream("one");
    Stream& two = rank.stream("two");
    one.launch(timed(rank, "a", 5));
    const Event a = one.record();
    one.launch(timed(rank, "b", 10));
    two.launch(timed(rank, "c", 2));
    two.after(a);
    two.launch(timed(rank, "d", 1));  // 5 to 6
    one.after(two.record());
    one.launch(timed(rank, "e", 1));  // 15 to 16: the fence was over long before
    rank.wait(two.record());
    CHECK(rank.now().value == near(6e-6, 1e-6));
    rank.wait(a);  // of the past
    CHECK(rank.now().value == near(6e-6, 1e-6));
  });
  CHECK(report.end == 16_us);
  CHECK(report.activities == 7);
}

TEST_CASE("fences that wait for each other in turn pass work between streams without losing time") {
  Simulation simulation(1);
  const RunReport report = simulation.run([](Rank& rank) {
    const Prepared kernel = timed(rank, "k", 1);
    Stream& one = rank.stream("one");
    Stream& two = rank.stream("two");
    for (int i = 0; i < 1000; ++i) {
      one.launch(kernel);
      two.after(one.record());
      two.launch(kernel);
      one.after(two.record());
    }
  });
  CHECK(report.end == 2000_us);
}

TEST_CASE("operations of no length take no time and keep their order") {
  Simulation simulation(1);
  const RunReport report = simulation.run([](Rank& rank) {
    Stream& one = rank.stream("one");
    Stream& two = rank.stream("two");
    for (int i = 0; i < 100; ++i) {
      one.launch(timed(rank, "nothing", 0));
      two.after(one.record());
      two.launch(timed(rank, "nothing", 0));
      one.after(two.record());
    }
    CHECK_FALSE(rank.poll(one.record()));  // nothing ends while hosts run
    rank.wait(one.record());
    CHECK(rank.poll(two.record()));
    CHECK(rank.now().value == 0);
  });
  CHECK(report.end == Time{});
  CHECK(report.activities == 400);
}

TEST_CASE("a sequence takes exactly as long as its kernels launched one by one") {
  const auto run = [](bool fused, bool host_clock) {
    return in_child([=] {
      Simulation simulation(1);
      simulation.machine.host.launch = 700_ns;
      simulation.options.host_clock = host_clock;
      const RunReport report = simulation.run([&](Rank& rank) {
        Stream& compute = rank.stream("compute");
        std::vector<Prepared> kernels;
        for (int k = 0; k < 50; ++k)
          kernels.push_back(timed(rank, "k", 0.1 + 0.0371 * static_cast<double>(k)));
        const Sequence& all = rank.sequence("all", [&](Sequence& sequence) {
          for (const Prepared& kernel : kernels) sequence.add(kernel, {});
        });
        for (int i = 0; i < 10; ++i) {
          if (fused)
            compute.launch(all, {});
          else
            for (const Prepared& kernel : kernels) compute.launch(kernel);
        }
        compute.mark_step(0);
      });
      const StepMark& mark = report.ranks[0].steps.at(0);
      return std::string(mark.parts.total() == mark.at ? "" : "wrong sum ") +
             std::to_string(report.end.picoseconds) + " " +
             std::to_string(mark.parts.compute.picoseconds) + " " +
             std::to_string(mark.parts.overhead.picoseconds);
    });
  };
  CHECK(run(true, false) == run(false, false));
  CHECK(run(true, true) == run(false, true));
  CHECK(run(true, true) != run(true, false));
  CHECK(run(true, true).find("wrong") == std::string::npos);
}

TEST_CASE("identical ranks stay identical, whatever order their members are numbered in") {
  // Each rank stops when its collective is over; all poll at the instant it ends.
  const auto counts = [](bool replicate_first) {
    return in_child([=] {
      Simulation simulation(1);
      simulation.machine.gpus = 16;
      simulation.world.grid.set(Axis::replicate, 4).set(Axis::tensor, 4);
      if (replicate_first)
        simulation.world.grid.set_order({Axis::replicate, Axis::tensor, Axis::context, Axis::expert,
                                         Axis::pipeline, Axis::shard, Axis::island});
      std::vector<int> batches(16);
      simulation.run([&](Rank& rank) {
        Channel& data = rank.channel(Axis::replicate, "data");
        Stream& compute = rank.stream("compute");
        Stream& comm = rank.stream("comm");
        Tensor x = rank.allocate(comm, Label::gradients, 1'000'000, Dtype::fp32);
        const Prepared batch = timed(rank, "batch", 22);  // the collective takes 6 x (2 + 20)
        for (int round = 0; round < 3; ++round) {
          const Event done = comm.all_reduce(x, Reduce::sum, data);
          do {
            compute.launch(batch);
            rank.wait(compute.record());
            ++batches[static_cast<std::size_t>(rank.id())];
          } while (!rank.poll(done));
        }
      });
      std::string text;
      for (const int n : batches) text += std::to_string(n) + " ";
      return text;
    });
  };
  const std::string once = counts(false);
  CHECK(once == counts(true));
  CHECK(once.substr(0, once.find(' ')) == "18");
  for (std::size_t at = 0; at < once.size(); at += 3) CHECK(once.substr(at, 3) == "18 ");
}

TEST_CASE("a host that is a launch queue ahead waits until half of it has ended") {
  Simulation simulation(1);
  simulation.options.launch_queue = 8;
  simulation.run([](Rank& rank) {
    Stream& compute = rank.stream("compute");
    const Prepared kernel = timed(rank, "k", 1);
    for (int i = 0; i < 7; ++i) compute.launch(kernel);
    CHECK(rank.now() == us(0));
    compute.launch(kernel);
    CHECK(rank.now().value == near(4e-6, 1e-6));
  });
}

}  // namespace orrery
