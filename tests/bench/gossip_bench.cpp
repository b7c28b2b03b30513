// What thousands of gossip workers cost: 100 gradients each of A2CiD2 on a ring, with virtual
// values.
//
//   bench_gossip [repetitions [prefix]]
//
// `seconds` is CPU time; `kib_per_rank` the peak of memory above what the process had before, of
// both stacks of a worker, its model, streams and report. Exits with 1 where a budget of the design
// is missed.
#include <string>

#include "algorithms/algorithm_table.hpp"
#include "algorithms/models/mlp.hpp"
#include "backend/cpu/bodies.hpp"
#include "platforms/machine.hpp"
#include "sim/world.hpp"
#include "tests/bench/bench.hpp"

namespace orrery {
namespace {

constexpr int gradients = 100;

AlgorithmPlan a2cid2() {
  Problems problems;
  auto spec = read<AlgorithmSpec>(
      Document::parse_text("{name: a2cid2, graph: ring, optimizer: {name: momentum, lr: 0.1}}"),
      problems);
  read_algorithm(spec, "name", problems);
  problems.throw_if_any();
  return spec.plan;
}

// On the heap, with what it is made of gone: a stack takes whole pages.
[[gnu::noinline]] std::unique_ptr<Replica> make_replica(Rank& rank, const AlgorithmPlan& plan) {
  ReplicaOptions options;
  options.optimizer = plan.optimizer.options();
  return std::make_unique<Replica>(
      rank, make_mlp({.context = 8, .hidden = 128, .layers = 3, .micro_batch = 8}, nullptr),
      options);
}

Measured gossip(int workers) {
  UniformSpec machine_spec;
  machine_spec.gpus = workers;
  machine_spec.alpha = Time(2'000'000);
  machine_spec.bandwidth = BytesPerSecond(50e9);
  machine_spec.kernel_time = [](const Kernel&, const Cost& cost) {
    return to_time(Seconds(5e-6 + cost.matrix.value / 1e13));
  };
  const UniformMachine machine(machine_spec);
  const AlgorithmPlan plan = a2cid2();
  WorldOptions world;
  world.bodies = &cpu_bodies();
  world.grid.set(Axis::island, plan.divide(workers).island);
  SimOptions options;
  options.machine = &machine;
  options.variability = sim::Variability({}, 0.02, 1);  // else all are ready at one instant
  const auto simulated = make_sim_world(world, options);
  for (const auto& service : plan.services)
    simulated->add_service(service.name, service.program(workers, gradients));
  const double before = status_mib("VmRSS");
  const auto start = CpuClock::now();
  simulated->run([&](Rank& rank) {
    const std::unique_ptr<Replica> replica = make_replica(rank, plan);
    const std::unique_ptr<Algorithm> algorithm = plan.make(*replica);
    Progress progress(rank, {gradients, std::int64_t{8} * workers});
    train(*algorithm, progress);
  });
  const double seconds = seconds_since(start), mib = status_mib("VmHWM") - before;
  return {static_cast<double>(workers) * gradients / seconds, mib * 1024 / workers, seconds, mib};
}

bool run_all(const Options& options) {
  bool met = true;
  for (const int workers : {256, 1'024, 4'096}) {
    const auto measured = report("gossip", workers, options, [workers] { return gossip(workers); });
    if (!measured || workers != 4'096) continue;
    met &= gate(measured->seconds <= 60, "a minute for 100 gradients of each of 4,096 workers");
    met &= gate(measured->kib_per_rank <= 32, "32 KiB for each of 4,096 gossip workers");
  }
  return met;
}

}  // namespace
}  // namespace orrery

int main(int argc, char** argv) { return orrery::bench_main(argc, argv, orrery::run_all); }
