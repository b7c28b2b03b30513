// What large clusters cost: programs shared by up to 100,352 ranks, collectives over 16,384, and
// platforms of 65,536 GPUs.
//
//   bench_scale [repetitions [prefix]]
//
// Llama 3 405B is the whole program, from start to end; so is DiLoCo of ten billion parameters with
// a value model.
// A shared step is that of bench_sim in outline, 1,000 kernels and 200 collectives with their
// fences per rank, kernels jittering by 2 %, every rank simulated by itself. `seconds` is CPU time,
// `mib` the peak of memory above what the process had before. Exits with 1 where a budget of the
// design is missed.
#include <cstdlib>
#include <optional>
#include <string>

#include "backend/rank.hpp"
#include "backend/world.hpp"
#include "platforms/cluster.hpp"
#include "platforms/machine.hpp"
#include "platforms/platform.hpp"
#include "sim/world.hpp"
#include "tests/bench/bench.hpp"

namespace orrery {
namespace {

constexpr int blocks = 200;
constexpr int kernels_per_block = 5;

// All ranks issue the same; what tells them apart is how long their kernels take.
void train(Rank& rank) {
  Channel& tensor = rank.channel(Axis::tensor, "activations");
  Channel& data = rank.channel(Axis::replicate, "gradients");
  Stream& compute = rank.stream("compute");
  Stream& comm = rank.stream("comm");
  const Tensor weights = rank.allocate(compute, Label::parameters, 1 << 20, Dtype::bf16);
  std::array<Tensor, 3> reduced;
  for (Tensor& tensor_to_reduce : reduced)
    tensor_to_reduce = rank.allocate(compute, Label::gradients, 1 << 20, Dtype::bf16);
  std::array<Prepared, kernels_per_block> kernels;
  for (std::size_t i = 0; i < kernels.size(); ++i)
    kernels[i] = rank.prepare(
        Kernel::timed("kernel", Seconds(1e-11 * static_cast<double>(staggered(0, i * 31))),
                      {Role::read, Role::update}));
  std::array<Event, 3> done{};
  for (int block = 0; block < blocks; ++block) {
    const auto turn = static_cast<std::size_t>(block) % 3;
    compute.after(done[turn]);
    for (const Prepared& kernel : kernels) compute.launch(kernel, {weights, reduced[turn]});
    comm.after(compute.record());
    done[turn] = comm.all_reduce(reduced[turn], Reduce::sum, block % 10 == 9 ? data : tensor);
  }
  compute.mark_step(0);
}

Measured simulate(const Machine& machine, const Grid& grid, Execution execution, double jitter,
                  const World::Program& program) {
  WorldOptions world;
  world.grid = grid;
  SimOptions options;
  options.machine = &machine;
  options.execution = execution;
  if (jitter > 0) options.variability = sim::Variability({}, jitter, 1);
  const double before = status_mib("VmRSS");
  const auto start = CpuClock::now();
  const RunReport report = make_sim_world(world, options)->run(program);
  const double seconds = seconds_since(start);
  const double mib = status_mib("VmHWM") - before;
  return {static_cast<double>(report.activities) / seconds, mib * 1024 / grid.size(), seconds, mib};
}

UniformMachine uniform(int ranks) {
  UniformSpec spec;
  spec.gpus = ranks;
  spec.alpha = Time(2'000'000);
  spec.bandwidth = BytesPerSecond(50e9);
  return UniformMachine(spec);
}

Measured shared_step(int ranks) {
  const UniformMachine machine = uniform(ranks);
  Grid grid;
  grid.set(Axis::tensor, 8).set(Axis::replicate, ranks / 8);
  return simulate(machine, grid, Execution::shared, 0.02, train);
}

// How much longer a step of 16,384 ranks takes than sixteen of 1,024, half of them before it and
// half after, as the speed of a machine drifts: the median of `repetitions`.
double growth(int repetitions) {
  constexpr int times = 16;
  const auto seconds = [](int ranks) {
    return in_child([ranks] { return shared_step(ranks); }).seconds;
  };
  std::vector<double> ratios;
  for (int i = 0; i < repetitions; ++i) {
    double linear = 0, whole = 0;
    for (int run = 0; run < times; ++run) {
      if (run == times / 2) whole = seconds(times * 1'024);
      linear += seconds(1'024);
    }
    ratios.push_back(whole / linear);
  }
  std::sort(ratios.begin(), ratios.end());
  return ratios[ratios.size() / 2];
}

// A pipeline stage of 8 layers with tensor parallelism, 8 micro-batches forward and then backward,
// and its gradients: about 1,340 operations.
void hybrid(Rank& rank) {
  const int stages = rank.size(Axis::pipeline), stage = rank.coordinate(Axis::pipeline);
  Channel& tensor = rank.channel(Axis::tensor, "activations");
  Channel& data = rank.channel(Axis::replicate, "gradients");
  Stream& compute = rank.stream("compute");
  Stream& comm = rank.stream("comm");
  Stream& in = rank.stream("in");
  Stream& out = rank.stream("out");
  const Tensor weights = rank.allocate(compute, Label::parameters, 1 << 20, Dtype::bf16);
  const Tensor x = rank.allocate(in, Label::activations, 1 << 20, Dtype::bf16);
  const Prepared kernel =
      rank.prepare(Kernel::timed("layer", Seconds(1e-4), {Role::read, Role::update}));
  const auto pass = [&](Channel& edge, bool receives, bool sends, int layers) {
    if (receives) compute.after(in.receive(x, edge));
    for (int layer = 0; layer < layers; ++layer) {
      compute.launch(kernel, {weights, x});
      comm.after(compute.record());
      compute.after(comm.all_reduce(x, Reduce::sum, tensor));
    }
    out.after(compute.record());
    if (sends) out.send(x, edge);
    in.after(out.record());
    compute.after(out.record());
  };
  Channel& forward = rank.edge(Axis::pipeline, +1, "activations");
  Channel& backward = rank.edge(Axis::pipeline, -1, "gradients");
  for (int batch = 0; batch < 8; ++batch) pass(forward, stage > 0, stage + 1 < stages, 16);
  for (int batch = 0; batch < 8; ++batch) pass(backward, stage + 1 < stages, stage > 0, 24);
  comm.after(compute.record());
  comm.all_reduce(weights, Reduce::mean, data);
  compute.mark_step(0);
}

Measured hybrid_step(int ranks) {
  const UniformMachine machine = uniform(ranks);
  Grid grid;
  grid.set(Axis::tensor, 8).set(Axis::pipeline, 4).set(Axis::replicate, ranks / 32);
  return simulate(machine, grid, Execution::shared, 0.02, hybrid);
}

// An actor per rank, with its stack, that issues a little and waits.
Measured waiting_actors(int ranks) {
  const UniformMachine machine = uniform(ranks);
  Grid grid;
  grid.set(Axis::replicate, ranks);
  return simulate(machine, grid, Execution::actors, 0, [](Rank& rank) {
    Stream& compute = rank.stream("compute");
    Stream& comm = rank.stream("comm");
    Channel& all = rank.channel(Axis::replicate, "gradients");
    const Tensor x = rank.allocate(compute, Label::gradients, 1 << 20, Dtype::bf16);
    const Prepared kernel = rank.prepare(Kernel::timed("kernel", Seconds(1e-6), {Role::update}));
    for (int step = 0; step < 3; ++step) {
      for (int i = 0; i < 20; ++i) compute.launch(kernel, {x});
      comm.after(compute.record());
      compute.after(comm.all_reduce(x, Reduce::mean, all));
      rank.wait(compute.record());
    }
  });
}

Platform superpod() {
  const PlatformFolder folder(ORRERY_SOURCE_DIR);
  Platform platform = read_platform(folder, "meta-24k-h100", "generic");
  platform.parts[0].count = 8192;
  return platform;
}

Measured all_reduce_1gib(int ranks) {
  const Cluster machine(superpod(), ranks);
  Grid grid;
  grid.set(Axis::replicate, ranks);
  return simulate(machine, grid, Execution::shared, 0, [](Rank& rank) {
    Stream& comm = rank.stream("comm");
    const Tensor x = rank.allocate(comm, Label::gradients, 1 << 29, Dtype::bf16);
    comm.all_reduce(x, Reduce::mean, rank.channel(Axis::replicate, "gradients"));
  });
}

Measured platform_of(int gpus) {
  Platform platform = superpod();
  const double before = status_mib("VmRSS");
  const auto start = CpuClock::now();
  const Cluster cluster(std::move(platform), gpus);
  const double seconds = seconds_since(start);
  return {cluster.gpus() / seconds, 0, seconds, status_mib("VmHWM") - before};
}

// `orrery simulate` from start to end: its CPU time and the most memory that it had.
Measured whole_process(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {ORRERY_PROGRAM, "simulate"});
  std::vector<char*> words;
  for (std::string& argument : arguments) words.push_back(argument.data());
  words.push_back(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    if (std::freopen("/dev/null", "w", stdout) != nullptr) execv(words[0], words.data());
    _exit(127);
  }
  int status = 0;
  rusage use{};
  wait4(child, &status, 0, &use);
  if (status != 0) return {};
  const auto seconds = [](timeval t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  const double total = seconds(use.ru_utime) + seconds(use.ru_stime);
  return {1 / total, 0, total, static_cast<double>(use.ru_maxrss) / 1024};
}

bool within(const std::optional<Measured>& measured, double seconds, double mib,
            const std::string& what) {
  return !measured || gate(measured->seconds <= seconds && measured->mib <= mib,
                           fmt::format("{:.3g} s and {:.4g} MiB for {}", seconds, mib, what));
}

bool run_all(const Options& options) {
  bool met = true;
  for (const auto& [ranks, seconds, mib] :
       {std::tuple{1'024, 1.0, 64.0}, {16'384, 15.0, 1'024.0}, {100'352, 60.0, 1'536.0}}) {
    const auto bare = report("bare_heap", ranks, options, [ranks = ranks] {
      return Measured{.per_second = bare_heap(static_cast<std::uint32_t>(ranks), 5'000'000)};
    });
    const auto ours =
        report("shared_step", ranks, options, [ranks = ranks] { return shared_step(ranks); });
    met &= within(ours, seconds, mib, fmt::format("a shared step of {} ranks", ranks));
    if (!ours) continue;
    if (bare)
      report_ratio("shared_step_over_bare_heap", static_cast<std::uint32_t>(ranks),
                   ours->per_second / bare->per_second);
  }
  if (std::string("growth").starts_with(options.prefix)) {
    const double ratio = growth(options.repetitions);
    report_ratio("growth", 16'384, ratio);
    met &= gate(ratio <= 1.3, "growth from 1,024 to 16,384 ranks at most 1.3 times linear");
  }
  for (const auto& [ranks, seconds, mib] : {std::tuple{1'024, 1.0, 64.0}, {16'384, 15.0, 1'024.0}})
    met &= within(
        report("hybrid_step", ranks, options, [ranks = ranks] { return hybrid_step(ranks); }),
        seconds, mib, fmt::format("a hybrid step of {} ranks", ranks));
  for (const auto& [ranks, seconds, mib] :
       {std::tuple{1'024, 0.05, 20.0}, {4'096, 0.2, 60.0}, {16'384, 1.0, 250.0}})
    met &= within(report("all_reduce_1gib", ranks, options,
                         [ranks = ranks] { return all_reduce_1gib(ranks); }),
                  seconds, mib, fmt::format("an all-reduce over {} ranks", ranks));
  met &= within(report("platform", 65'536, options, [] { return platform_of(65'536); }), 2, 200,
                "a platform of 65,536 GPUs");
  const std::string llama = ORRERY_SOURCE_DIR "/scenarios/llama3-405b-16384-h100.yaml";
  met &= within(report("llama3_405b_folded", 16'384, options,
                       [&] {
                         return whole_process({llama, "--quiet"});
                       }),
                0.3, 1'024, "Llama 3 405B on 16,384 GPUs, folded");
  met &= within(report("llama3_405b_jitter", 16'384, options,
                       [&] {
                         return whole_process({llama, "--quiet", "--set", "run.steps=1", "--set",
                                               "cluster_conditions={jitter: 0.02}"});
                       }),
                15, 1'024, "a step of Llama 3 405B on 16,384 GPUs with jitter");
  // On one core, with the loss of every step.
  const std::string folder = ORRERY_SOURCE_DIR "/tests/bench/diloco/";
  met &= within(report("diloco_10b_values_2000_steps", 64, options,
                       [&] {
                         return whole_process({folder + "scenario.yaml", "--quiet", "--set",
                                               "platform.cluster=" + folder + "islands.yaml"});
                       }),
                30, 1'024, "2,000 steps of DiLoCo on 64 workers with values");
  for (const int ranks : {1'024, 16'384}) {
    const auto actors = report("actors", ranks, options, [ranks] { return waiting_actors(ranks); });
    if (actors)
      met &= gate(actors->kib_per_rank <= 32, fmt::format("32 KiB for each of {} actors", ranks));
  }
  return met;
}

}  // namespace
}  // namespace orrery

int main(int argc, char** argv) { return orrery::bench_main(argc, argv, orrery::run_all); }
