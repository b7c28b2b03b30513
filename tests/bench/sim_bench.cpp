// What the simulated world costs per operation, with everything on: rank programs, ledger, hazard
// check, matching, time parts.
//
//   bench_sim [repetitions [prefix]]
//
// The program is a training step in outline: blocks of 5 kernels and one collective over a group of
// 8 ranks, every tenth over the data group instead, which the compute stream waits for two blocks
// later; 1,000 kernels and 200 collectives per rank, of durations that differ by rank. Each
// measurement runs in a process of its own; the best of the repetitions is printed with the median
// beside it, one JSON object per line. Time is CPU time. Exits with 1 where a budget of the design
// is missed.
#include <malloc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "backend/rank.hpp"
#include "backend/world.hpp"
#include "platforms/machine.hpp"
#include "sim/world.hpp"
#include "tests/bench/bench.hpp"

namespace orrery {
namespace {

constexpr int blocks = 200;
constexpr int kernels_per_block = 5;

// What the heap holds; a stack is a mapping of its own.
double heap_kib(int stacks) {
  const struct mallinfo2 all = mallinfo2();
  constexpr double stack = 256 * 1024;  // 255 KiB in whole pages
  return (static_cast<double>(all.uordblks) + static_cast<double>(all.hblkhd) - stack * stacks) /
         1024;
}

UniformMachine machine_of(int ranks) {
  UniformSpec spec;
  spec.gpus = ranks;
  spec.alpha = Time(2'000'000);
  spec.bandwidth = BytesPerSecond(50e9);
  return UniformMachine(spec);
}

void train(Rank& rank) {
  Channel& tensor = rank.channel(Axis::tensor, "activations");
  Channel& data = rank.channel(Axis::replicate, "gradients");
  Stream& compute = rank.stream("compute");
  Stream& comm = rank.stream("comm");
  Tensor activations = rank.allocate(compute, Label::activations, 1 << 20, Dtype::bf16);
  Tensor weights = rank.allocate(compute, Label::parameters, 1 << 20, Dtype::bf16);
  std::array<Tensor, 3> reduced;
  for (Tensor& tensor_to_reduce : reduced)
    tensor_to_reduce = rank.allocate(compute, Label::gradients, 1 << 20, Dtype::bf16);
  std::array<Prepared, kernels_per_block> kernels;
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    const double ps =
        static_cast<double>(staggered(static_cast<std::uint64_t>(rank.id()) % 61, i * 31) * 10);
    kernels[i] = rank.prepare(
        Kernel::timed("kernel", Seconds(ps * 1e-12), {Role::read, Role::read, Role::update}));
  }
  std::array<Event, 3> done{};
  for (int block = 0; block < blocks; ++block) {
    const auto turn = static_cast<std::size_t>(block) % 3;
    compute.after(done[turn]);
    for (const Prepared& kernel : kernels)
      compute.launch(kernel, {activations, weights, reduced[turn]});
    comm.after(compute.record());
    done[turn] = comm.all_reduce(reduced[turn], Reduce::sum, block % 10 == 9 ? data : tensor);
  }
  compute.mark_step(0);
}

Measured simulate(int ranks, const World::Program& program) {
  const UniformMachine machine = machine_of(ranks);
  WorldOptions world;
  world.grid.set(Axis::tensor, 8).set(Axis::replicate, ranks / 8);
  SimOptions options;
  options.machine = &machine;
  const double before = heap_kib(0);
  const auto start = CpuClock::now();
  double kib = 0;  // when the last rank has issued all it has to
  const RunReport report = make_sim_world(world, options)->run([&](Rank& rank) {
    program(rank);
    if (rank.id() == ranks - 1) kib = (heap_kib(ranks) - before) / ranks;
  });
  const double seconds = seconds_since(start);
  return {static_cast<double>(report.activities) / seconds, kib, seconds, 0};
}

// A launch of a prepared kernel with three operands, from the call on Stream to its return; what
// the stream does with it later is not counted. `chained`: each reads what the one before it wrote.
Measured issue_path(bool chained) {
  constexpr int launches = 1'000'000;
  const UniformMachine machine = machine_of(1);
  WorldOptions world;
  SimOptions options;
  options.machine = &machine;
  options.launch_queue = 2 * launches;
  double seconds = 0;
  make_sim_world(world, options)->run([&](Rank& rank) {
    Stream& compute = rank.stream("compute");
    const Prepared kernel =
        rank.prepare(Kernel::timed("kernel", Seconds(1e-6), {Role::read, Role::read, Role::write}));
    std::array<Tensor, 3> x;
    for (Tensor& tensor : x)
      tensor = rank.allocate(compute, Label::activations, 1 << 20, Dtype::bf16);
    for (int pass = 0; pass < 2; ++pass) {  // the first grows the queue
      const auto start = CpuClock::now();
      for (int i = 0; i < launches / 4; ++i) {
        compute.launch(kernel, {x[0], x[1], x[2]});
        compute.launch(kernel, {chained ? x[2] : x[0], x[1], chained ? x[0] : x[2]});
      }
      seconds = seconds_since(start);
      rank.wait(compute.record());
    }
  });
  return {.per_second = launches / 2 / seconds, .seconds = seconds};
}

bool run_all(const Options& options) {
  bool met = true;
  if (const auto plain = report("issue_path", 1, options, [] { return issue_path(false); }))
    met &= gate(plain->per_second >= 1e9 / 30, "30 ns per launch");
  report("issue_path_chained", 1, options, [] { return issue_path(true); });
  for (const int ranks : {1'024, 16'384}) {
    const auto bare = report("bare_heap", ranks, options, [ranks] {
      return Measured{.per_second = bare_heap(static_cast<std::uint32_t>(ranks), 5'000'000)};
    });
    const auto ours =
        report("rank_activities", ranks, options, [ranks] { return simulate(ranks, train); });
    report("idle_ranks", ranks, options,
           [ranks] { return simulate(ranks, [](Rank& rank) { rank.stream("compute"); }); });
    if (!ours) continue;
    met &= gate(ours->kib_per_rank <= 8, "8 KiB per rank besides its stack");
    if (!bare) continue;
    const double ratio = ours->per_second / bare->per_second;
    report_ratio("rank_activities_over_bare_heap", static_cast<std::uint32_t>(ranks), ratio);
    met &=
        gate(ratio >= 0.25, fmt::format("a quarter of the bare heap's rate with {} ranks", ranks));
  }
  return met;
}

}  // namespace
}  // namespace orrery

int main(int argc, char** argv) { return orrery::bench_main(argc, argv, orrery::run_all); }
