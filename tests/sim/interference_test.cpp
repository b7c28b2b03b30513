// Kernels beside communications that keep multiprocessors and bandwidth from them: times from the
// rates, which are constant between the starts and ends of communications.
#include <doctest/doctest.h>

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

}  // namespace
}  // namespace orrery
