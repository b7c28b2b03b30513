// Threads that share the cores of a processor: times from how many work.
//
// Seen to fail: ends of work not counted (Streams::operation_due), a count that forgets how many
// worked when kernels were measured.
#include <doctest/doctest.h>

#include "tests/sim/hybrid_program.hpp"

namespace orrery {
namespace {

// Kernels take what they took when all ranks worked.
struct OnCores : Simulation {
  OnCores(int ranks, int cores) : Simulation(ranks) {
    machine.alpha = Time{};
    machine.processor = SharedProcessor{0, cores, ranks};
  }
};

void work_for(Rank& rank, double microseconds, const char* stream = "compute") {
  rank.stream(stream).launch(timed(rank, "work", microseconds));
}

TEST_CASE("a thread works the faster the fewer others want its cores") {
  const RunReport report = OnCores(4, 2).run([](Rank& rank) {
    for (int i = 0; i <= rank.id() / 2 + (rank.id() == 3 ? 1 : 0); ++i) work_for(rank, 100);
    rank.wait(rank.stream("compute").record());
    // All four until 100, then two, each with a core, then one.
    const double ends[]{100, 100, 150, 200};
    CHECK(rank.now().value * 1e6 == doctest::Approx(ends[rank.id()]));
  });
  CHECK(report.end == 200_us);
}

TEST_CASE("a kernel speeds up in its midst when another ends") {
  const RunReport report =
      OnCores(4, 2).run([](Rank& rank) { work_for(rank, rank.id() == 0 ? 100 : 160); });
  CHECK(report.end == 145_us);  // 60 are left at 100; three on two cores do them in 45
}

TEST_CASE("a kernel slows down in its midst when another begins") {
  const RunReport report = OnCores(2, 1).run([](Rank& rank) {
    Stream& compute = rank.stream("compute");
    if (rank.id() == 1) {
      Tensor tensor = rank.allocate(compute, Label::activations, 1'000'000, Dtype::fp32);
      compute.all_reduce(tensor, Reduce::sum, rank.channel(Axis::replicate, "first"));
    } else {
      Stream& other = rank.stream("other");
      Tensor tensor = rank.allocate(other, Label::activations, 1'000'000, Dtype::fp32);
      other.all_reduce(tensor, Reduce::sum, rank.channel(Axis::replicate, "first"));
    }
    work_for(rank, 400);
  });
  // 4 MB to and fro take 80: until then rank 0 has the core alone and does 160 of its 400. Then
  // both work: it ends at 320, and rank 1 does the rest of its own, 160, in half of that.
  CHECK(report.end == 400_us);
}

TEST_CASE("streams of one rank that work at once are threads of their own") {
  const RunReport report = OnCores(2, 2).run([](Rank& rank) {
    work_for(rank, 100);
    if (rank.id() == 0) work_for(rank, 100, "other");
  });
  CHECK(report.end == 150_us);
}

TEST_CASE("as long as all have cores of their own none is slower") {
  const RunReport report = OnCores(2, 4).run([](Rank& rank) {
    work_for(rank, 100);
    work_for(rank, 70, "other");
  });
  CHECK(report.end == 100_us);
}

TEST_CASE("a recorded program shares cores as programs do, and does not fold") {
  const auto text_of = [](Execution execution) {
    return in_child([execution] {
      const HybridPlan plan{.tensor = 2, .pipeline = 2, .data = 2};
      OnCores run(plan.ranks(), 3);
      run.world.grid = plan.grid();
      run.options.execution = execution;
      run.options.variability = sim::Variability({}, 0.1, 3);
      return to_text(run.run(hybrid_program));
    });
  };
  CHECK(text_of(Execution::shared) == text_of(Execution::actors));
  OnCores folded(2, 1);
  folded.options.execution = Execution::folded;
  const Error refused = error_of([&] { folded.run([](Rank& rank) { work_for(rank, 1); }); });
  CHECK(std::string(refused.what()).find("share the cores of a processor") != std::string::npos);
}

}  // namespace
}  // namespace orrery
