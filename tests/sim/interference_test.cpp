// Kernels beside communications that keep multiprocessors and bandwidth from them: times from the
// rates, which are constant between the starts and ends of communications.
#include <doctest/doctest.h>

#include <algorithm>
#include <sstream>

#include "sim/trace.hpp"
#include "tests/sim/hybrid_program.hpp"

namespace orrery {
namespace {

// GPUs of four multiprocessors, of which a communication keeps one. Kernels that move memory take
// twice as long while any transfers. A gather takes 40 us.
struct Beside : Simulation {
  explicit Beside(int ranks = 2) : Simulation(ranks) {
    machine.alpha = Time{};
    machine.waiting.multiprocessors = 1;
    machine.transferring = {.multiprocessors = 0, .transfers = 1, .memory = 1};
    machine.kernel_time_beside = [](const Kernel& kernel, const Cost&, const Taken& taken) {
      const double rate = kernel.label == std::string_view("moves")
                              ? (taken.memory > 0 ? 0.5 : 1)
                              : (4 - taken.multiprocessors) / 4.0;
      return to_time(Seconds(kernel.scalars[1] / rate));
    };
  }
};

struct Gather {
  explicit Gather(Rank& of, const char* lane = "data")
      : channel(of.channel(Axis::replicate, lane)),
        stream(of.stream(lane)),
        whole(of.allocate(stream, Label::parameters, 1'000'000, Dtype::fp32)),
        part(of.allocate(stream, Label::parameters, 500'000, Dtype::fp32)) {}
  void issue() { stream.all_gather(whole, part, channel); }

  Channel& channel;
  Stream& stream;
  Tensor whole, part;
};

TEST_CASE("a kernel is slower for as long as a collective runs beside it") {
  const RunReport report = Beside().run([](Rank& rank) {
    Gather gather(rank);
    rank.stream("compute").launch(timed(rank, "work", 100));
    gather.issue();
  });
  CHECK(report.end == 110_us);  // 40 at 3/4
  CHECK(report.ranks[0].channels.at(0).use.busy == 40_us);
}

TEST_CASE("a collective that waits for other ranks keeps multiprocessors, not bandwidth") {
  const RunReport report = Beside().run([](Rank& rank) {
    Gather gather(rank);
    if (rank.id() == 1) gather.stream.launch(timed(rank, "late", 50));
    gather.issue();
    Stream& compute = rank.stream("compute");
    compute.launch(timed(rank, "work", 90));
    const Event worked = compute.record();
    Stream& other = rank.stream("other");
    other.launch(timed(rank, "moves", 100));
    rank.wait(worked);
    // The first one's collective lasts from 0 to 90, the other's from 50.
    CHECK(rank.now().value * 1e6 == doctest::Approx(rank.id() == 0 ? 112.5 : 100));
    rank.wait(other.record());
    CHECK(rank.now().value * 1e6 == doctest::Approx(120));  // 40 at 1/2
  });
  CHECK(report.end == 120_us);
}

TEST_CASE("collectives at the same time keep their multiprocessors each") {
  const RunReport report = Beside().run([](Rank& rank) {
    Gather one(rank), two(rank, "more");
    Stream& compute = rank.stream("compute");
    two.stream.launch(timed(rank, "moves", 10));  // alone 10; beside the first one 20
    compute.launch(timed(rank, "work", 100));
    one.issue();
    two.issue();
  });
  // 20 at 3/4, 20 at 2/4, 20 at 3/4: 40 done at 60.
  CHECK(report.end == 120_us);
}

TEST_CASE("kernels of a sequence are slowed down each by what it needs") {
  const auto end = [](Time launch) {
    return in_child([&] {
      Beside simulation;
      simulation.machine.host.launch = launch;
      simulation.options.host_clock = true;
      const RunReport report = simulation.run([](Rank& rank) {
        const Sequence& block = rank.sequence("block", [&](Sequence& s) {
          for (const char* what : {"work", "moves", "work"}) s.add(timed(rank, what, 24), {});
        });
        Gather gather(rank);
        gather.issue();
        rank.stream("compute").launch(block, {});
      });
      return std::to_string(report.end.picoseconds);
    });
  };
  // 32 for the first at 3/4; in the last 8 of the gather the second does 4, then 20; 24.
  CHECK(end(Time{}) == std::to_string((84_us).picoseconds));
  // Each kernel's launch takes 1 us, the first one's is over at 1 and the collective begins at 0.
  CHECK(end(1_us) == std::to_string((84_us + 1_us - 500_ns).picoseconds));
}

// The first gather begins within a kernel, at 31. In its 40, 30 are done.
TEST_CASE("a row of kernels foreseen to end undisturbed ends as it is disturbed") {
  const auto picoseconds = [](bool traced) {
    return in_child([traced] {
      Beside simulation;
      StringTraceSink sink;
      if (traced) simulation.options.trace = &sink;
      const RunReport report = simulation.run([](Rank& rank) {
        Gather gather(rank);
        Stream& compute = rank.stream("compute");
        const Prepared work = timed(rank, "work", 3);
        for (int i = 0; i < 10; ++i) compute.launch(work);
        gather.stream.after(compute.record());
        gather.stream.launch(timed(rank, "moves", 1));
        gather.issue();
        for (int i = 0; i < 50; ++i) compute.launch(work);
        gather.stream.after(compute.record());
        gather.issue();
        for (int i = 0; i < 3; ++i) compute.launch(work);
        compute.mark_step(0);
      });
      return std::to_string(report.ranks[1].steps.at(0).parts.compute.picoseconds);
    });
  };
  const std::string traced = picoseconds(true);
  CHECK(traced == picoseconds(false));
  CHECK(std::abs(std::stoll(traced) - 202'000'000) <= 20);  // each kernel's end is rounded
}

TEST_CASE("ranks beside communications fold and share programs to the picosecond") {
  for (HybridCase c : {HybridCase{.plan = {.tensor = 2, .context = 2, .pipeline = 2, .data = 2}},
                       HybridCase{.plan = {.tensor = 2, .pipeline = 3, .data = 2}, .per_node = 4},
                       HybridCase{.plan = {.context = 2, .data = 4}, .per_node = 4, .kinds = 2}})
    for (const bool host_clock : {true, false}) {
      c.host_clock = host_clock;
      c.interference = false;
      const std::string undisturbed = figures(c.text(Execution::actors));
      c.interference = true;
      const std::string actors = figures(c.text(Execution::actors));
      CHECK(actors != undisturbed);
      CHECK(figures(c.text(Execution::shared)) == actors);
      CHECK(figures(c.text(Execution::folded)) == actors);
    }
}

// Ranks that are threads of a host of two cores, on which all that work take turns.
struct TwoCores : Simulation {
  explicit TwoCores(int ranks) : Simulation(ranks) {
    machine.alpha = Time{};
    machine.shares_cores = true;
    machine.kernel_time_beside = [](const Kernel& kernel, const Cost&, const Taken& taken) {
      return to_time(Seconds(kernel.scalars[1] * std::max(1.0, taken.working / 2.0)));
    };
  }
  // Ranks 0 and 1 compute 150 us from the start, the others 50 us from 100 us on.
  std::vector<double> ends(std::vector<bool> works, int kernels) {
    std::vector<double> at(works.size());
    run([&](Rank& rank) {
      const auto id = static_cast<std::size_t>(rank.id());
      if (!works[id]) return;
      Stream& compute = rank.stream("compute");
      if (id > 1) rank.sleep(us(100));
      const Prepared work = timed(rank, "work", (id > 1 ? 50.0 : 150.0) / kernels);
      for (int i = 0; i < kernels; ++i) compute.launch(work);
      rank.wait(compute.record());
      at[id] = rank.now().value * 1e6;
    });
    return at;
  }
};

TEST_CASE("ranks that share cores are as fast as those that work at the same time let them be") {
  for (const int kernels : {1, 10}) {
    const auto all_end = [&](const std::vector<bool>& works, double expected) {
      const std::string text = in_child([&] {
        std::string ends;
        for (const double end : TwoCores(static_cast<int>(works.size())).ends(works, kernels))
          ends += std::to_string(end) + " ";
        return ends;
      });
      std::istringstream ends(text);
      double end = 0;
      for (const bool one : works) {
        ends >> end;
        CHECK(end == doctest::Approx(one ? expected : 0).epsilon(1e-6));
      }
    };
    all_end({true, true}, 150);
    all_end({true, true, true}, 175);        // from 100 on three work on two: 50 us each take 75
    all_end({true, true, true, true}, 200);  // four: 100
    all_end({true, true, false, true}, 175);
  }
}

TEST_CASE("streams of one rank that work at the same time take turns on its host's cores too") {
  const RunReport report = TwoCores(1).run([](Rank& rank) {
    for (const char* name : {"compute", "a", "b", "c"}) {
      Stream& stream = rank.stream(name);
      stream.launch(timed(rank, "work", 40));
    }
  });
  CHECK(report.end == 80_us);
}

TEST_CASE("ranks that share cores follow one program to the picosecond, and do not fold") {
  const auto text = [](Execution execution) {
    return in_child([execution] {
      TwoCores simulation(4);
      simulation.options.execution = execution;
      try {
        const RunReport report = simulation.run([](Rank& rank) {
          Channel& channel = rank.channel(Axis::replicate, "all");
          Stream &compute = rank.stream("compute"), &comm = rank.stream("comm");
          const Tensor x = rank.allocate(comm, Label::parameters, 1000, Dtype::fp32);
          for (int i = 0; i < 5; ++i) {
            compute.launch(timed(rank, "work", 7));
            compute.launch(timed(rank, "work", 3));
            comm.launch(timed(rank, "work", 4));
            comm.all_reduce(x, Reduce::sum, channel);
            compute.after(comm.record());
          }
        });
        return std::to_string(report.end.picoseconds);
      } catch (const Error& error) {
        return std::string(error.what());
      }
    });
  };
  const std::string actors = text(Execution::actors);
  CHECK(actors == text(Execution::shared));
  CHECK(actors == text(Execution::automatic));
  CHECK(text(Execution::folded).find("share the cores of a host") != std::string::npos);
}

}  // namespace
}  // namespace orrery
