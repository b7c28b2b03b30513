#include "scenarios/cli/simulation.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <iostream>
#include <sstream>

#include "backend/core/config.hpp"
#include "backend/core/progress.hpp"
#include "backend/core/table.hpp"
#include "backend/core/text.hpp"
#include "backend/cpu/bodies.hpp"
#include "backend/cpu/world.hpp"
#include "backend/rank.hpp"
#include "orrery_paths.hpp"
#include "platforms/cluster.hpp"
#include "platforms/conditions.hpp"
#include "scenarios/cli/band.hpp"
#include "scenarios/cli/children.hpp"
#include "scenarios/cli/cuda_world.hpp"
#include "scenarios/cli/files.hpp"
#include "scenarios/cli/interrupt.hpp"
#include "scenarios/cli/memory_world.hpp"
#include "scenarios/cli/run_trace.hpp"
#include "scenarios/cli/told.hpp"
#include "scenarios/cli/value_twin.hpp"
#include "scenarios/replica_checks.hpp"
#include "scenarios/training.hpp"
#include "sim/world.hpp"

namespace orrery::cli {

namespace {

class Stopwatch {
 public:
  double wall_s() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - wall_).count();
  }
  double cpu_s() const { return static_cast<double>(std::clock() - cpu_) / CLOCKS_PER_SEC; }

 private:
  std::chrono::steady_clock::time_point wall_ = std::chrono::steady_clock::now();
  std::clock_t cpu_ = std::clock();
};

bool has_data(const std::filesystem::path& folder) {
  return std::filesystem::is_directory(folder / "platforms") &&
         std::filesystem::is_directory(folder / "scenarios");
}

ResultInput input_of(const Scenario& scenario, const char* world) {
  ResultInput in;
  in.subject = subject_of(scenario);
  in.world = world;
  in.ranks = in.simulated_ranks = scenario.gpus();
  in.tokens_per_step = scenario.tokens_per_step();
  in.flop_rule = name(scenario.run.flop_rule);
  in.flops_per_step = scenario.flops_per_step();
  in.full_flops_per_step = flops_per_step(scenario.model_spec, *scenario.data.sequence,
                                          scenario.data.global_batch, FlopRule::full);
  in.samples_per_step = scenario.data.global_batch;
  in.takes_turns = scenario.algorithm.plan.open_ended && !scenario.algorithm.plan.services.empty();
  if (scenario.algorithm.plan.open_ended)
    in.planned_flops_per_step = scenario.executed_flops_per_step(FlopRule::full);
  in.warnings = scenario.warnings;
  return in;
}

// "16 x a100-sxm-80gb", in the order in which a cluster is filled.
std::string gpus_text(const Scenario& scenario) {
  std::vector<std::string> texts;
  std::int64_t left = scenario.gpus();
  for (const Platform::Part& part : scenario.machines.parts) {
    const std::int64_t here = std::min<std::int64_t>(left, part.count * part.node.gpus.count.value);
    if (here > 0) texts.push_back(fmt::format("{} x {}", here, part.gpu.name));
    left -= here;
  }
  return join(texts, " + ");
}

// "data 8 x pipeline 2, 4 micro-batches of 4 x 4,096 tokens per step".
std::string plan_text(const Scenario& scenario) {
  const ParallelSpec& p = scenario.parallel;
  std::vector<std::string> axes{fmt::format("data {}", scenario.data_parallel() / p.expert)};
  for (const auto& [what, size] : {std::pair{"tensor", p.tensor},
                                   {"context", p.context},
                                   {"expert", p.expert},
                                   {"pipeline", p.pipeline}})
    if (size > 1) axes.push_back(fmt::format("{} {}", what, size));
  const bool by_messages = scenario.algorithm.plan.runs_stages && p.schedule != "petra";
  if (p.pipeline > 1)
    axes.back() += fmt::format(" ({})", by_messages ? "as messages come" : p.schedule);
  const bool tokens = scenario.model_spec.kind == ModelKind::transformer;
  const std::string sample = tokens ? fmt::format("{} x {} tokens", scenario.data.micro_batch,
                                                  format_thousands(*scenario.data.sequence))
                                    : fmt::format("{} samples", scenario.data.micro_batch);
  return fmt::format("{}; {} micro-batches of {} per replica and step", join(axes, " x "),
                     scenario.micro_batches(), sample);
}

TrainingHooks with_progress(ProgressLine& line, const Scenario& scenario, const std::string& verb) {
  TrainingHooks hooks;
  hooks.step_issued = [&line, &scenario, verb](Rank& rank, std::int64_t step) {
    line.update([&] {
      std::string text = fmt::format("{} step {} of {}", verb, step + 1, scenario.run.steps);
      if (!rank.losses().empty())
        text += fmt::format(", loss {:.4f}", rank.losses().rbegin()->second);
      return text;
    });
  };
  return hooks;
}

void load_replay(const Scenario& scenario, WorldOptions& options) {
  if (scenario.run.record) options.decisions = DecisionMode::record;
  if (!scenario.run.replay) return;
  options.decisions = DecisionMode::replay;
  options.replay = decisions_from_text(read_file(*scenario.run.replay), *scenario.run.replay);
}

// What a host can launch ahead of a stream before it waits: as deep as CUDA's queues are found to
// be. With far less, a host with many slow all-reduces of gradients to issue would come late with
// the backward pass behind them.
constexpr std::uint32_t launches_ahead = 1024;

// GPUs of a simulation that keeps where a step's computing goes: it takes a look-up per operation.
constexpr int most_with_work = 64;

// A trace shows every rank, unless it is asked to fold.
Execution execution_of(const Scenario& scenario, bool traced) {
  switch (scenario.run.folding) {
    case Folding::on:
      return Execution::folded;
    case Folding::automatic:
      return traced ? Execution::unfolded : Execution::automatic;
    case Folding::off:
      break;
  }
  return Execution::unfolded;
}

// What a rank has sent until each step of a training with losses, where a plan tells.
std::vector<double> sent_until(const Scenario& scenario, std::int64_t steps_before) {
  const bool values = scenario.twin || scenario.run.values == RunValues::real;
  std::vector<double> until;
  if (!values || !of_workers(scenario) || steps_before > 0) return until;
  for (const Bytes sent : sent_by_plan(scenario)) until.push_back(static_cast<double>(sent.value));
  return until;
}

Outcome finish(ResultInput in, RunReport report, const Scenario& scenario, const Stopwatch& watch,
               const Told& told) {
  const std::optional<HeldOut>& held_out = told.held_out;
  in.samples = samples_of(scenario, told, report, in);
  in.staleness = staleness_of(told.staleness.counts());
  in.sent = sent_until(scenario, in.steps_before);
  in.wall_s = watch.wall_s();
  in.cpu_s = watch.cpu_s();
  const InterruptGuard guard;
  if (scenario.run.record) write_file_atomically(*scenario.run.record, to_text(report.decisions));
  if (held_out) in.evaluation_flops = held_out->matrix_flops * in.ranks;
  in.loss_consensus = told.consensus.losses();
  Result result = make_result(std::move(in), report);
  if (held_out) result.loss_held_out = held_out->loss;
  return {std::move(report), std::move(result)};
}

bool different_kinds(const Cluster& cluster) {
  for (int g = 1; g < cluster.gpus(); ++g)
    if (cluster.kind(g) != cluster.kind(0)) return true;
  return false;
}

// How busy each link was; nothing where no bytes were counted.
std::vector<LinkUse> link_use(const std::vector<LinkSpec>& links, const std::vector<double>& bytes,
                              Time end) {
  std::vector<LinkUse> rows;
  for (std::size_t i = 0; i < links.size() && !bytes.empty(); ++i) {
    const double bandwidth = links[i].bandwidth.value;
    rows.push_back({links[i].name, name(links[i].tier), bandwidth, bytes[i],
                    bytes[i] / (bandwidth * end.seconds().value)});
  }
  return rows;
}

// How busy the links of each tier were.
std::vector<LinkRow> tier_use(const std::vector<LinkUse>& links) {
  std::vector<LinkRow> rows;
  for (int tier = 0; tier < link_tier_count; ++tier) {
    LinkRow row;
    row.tier = name(static_cast<LinkTier>(tier));
    double sum = 0;
    for (const LinkUse& link : links) {
      if (link.tier != row.tier) continue;
      sum += link.share;
      ++row.links;
      if (row.busiest.empty() || link.share > row.busiest_share)
        row.busiest = link.name, row.busiest_share = link.share;
    }
    if (row.links == 0) continue;
    row.mean_share = sum / row.links;
    rows.push_back(row);
  }
  return rows;
}

}  // namespace

std::string data_root() {
  namespace fs = std::filesystem;
  const fs::path program = fs::read_symlink("/proc/self/exe").parent_path();
  for (const fs::path& folder :
       {fs::path("."), fs::path(source_folder), program / data_from_program, fs::path(data_folder)})
    if (has_data(folder)) return folder.string();
  throw Error(Category::unavailable,
              "the data folders platforms/ and scenarios/ are not found; run from the project's "
              "folder, or install it");
}

Scenario read_scenario(const Arguments& arguments) {
  Document document = Document::parse_file(arguments.positional.at(0));
  for (const std::string& assignment : arguments.set) document.set(assignment);
  if (!arguments.seed.empty()) document.set("run.seed=" + arguments.seed);
  return orrery::read_scenario(document, data_root());
}

Subject subject_of(const Scenario& scenario) {
  Subject s;
  s.scenario = std::filesystem::path(scenario.file).stem().string();
  s.model = scenario.model_spec.name;
  s.parameters = scenario.model_spec.parameters();
  s.algorithm = scenario.algorithm.name;
  s.cluster = scenario.machines.cluster.name;
  s.gpus = gpus_text(scenario);
  s.plan = plan_text(scenario);
  s.steps = scenario.run.steps;
  s.seed = scenario.run.seed;
  return s;
}

namespace {

// As the simulation of a few steps tells it, in a process of its own.
RankMemory simulated_memory(const Scenario& scenario, const Arguments& arguments) {
  const std::string text = in_child([&] {
    const Result result = simulate_scenario(scenario, arguments, "").result;
    std::string numbers = std::to_string(result.peak_bytes.value);
    for (const Bytes held : result.by_label) numbers += " " + std::to_string(held.value);
    return numbers;
  });
  std::istringstream numbers(text);
  RankMemory memory;
  numbers >> memory.peak.value;
  for (Bytes& held : memory.by_label) numbers >> held.value;
  return memory;
}

// The memory of the timed model, whose program does not run. Error{out_of_memory} where it does not
// fit.
RankMemory timed_memory(const Scenario& scenario, const Arguments& arguments, Bytes capacity) {
  Scenario shortened = scenario;
  shortened.run.steps = std::min<std::int64_t>(scenario.run.steps, 3);
  if (!scenario.algorithm.plan.services.empty()) {  // its ranks wait for messages
    shortened.twin = nullptr;
    shortened.run.record.reset();
    shortened.run.replay.reset();
    Arguments quietly = arguments;
    quietly.quiet = true;
    return simulated_memory(shortened, quietly);
  }
  WorldOptions options = world_options(shortened);
  options.device_capacity = capacity;
  return memory_of_rank(options, training_program(shortened), 0);
}

}  // namespace

Outcome simulate_scenario(const Scenario& scenario, const Arguments& arguments,
                          const std::string& trace_path, const std::string& verb) {
  const Stopwatch watch;
  const std::optional<Band> band = band_of(scenario);
  Cluster cluster(scenario.machines, scenario.gpus());
  const ConditionsSpec& conditions = scenario.cluster_conditions;
  const std::uint64_t seed = scenario.conditions_seed();
  if (const auto factors = link_factors(conditions.links, cluster.links(), seed); !factors.empty())
    cluster.scale_links(factors);
  ResultInput in = input_of(scenario, "sim");
  std::optional<TwinMachine> twin;
  RankMemory memory;
  if (scenario.twin) {
    memory = timed_memory(scenario, arguments, cluster.device_memory(0));
    twin.emplace(cluster, scenario);
  }
  const Scenario& run = scenario.twin ? *scenario.twin : scenario;
  WorldOptions options = world_options(run);
  if (!twin) options.device_capacity = cluster.device_memory(0);
  options.bodies = &cpu_bodies();
  load_replay(scenario, options);
  SimOptions sim;
  sim.machine = twin ? static_cast<const Machine*>(&*twin) : &cluster;
  sim.fidelity = scenario.run.fidelity;
  for (const auto& [group, fidelity] : scenario.run.group_fidelity)
    sim.groups.push_back({group, fidelity});
  sim.variability = {gpu_slowness(conditions.gpu_speed, scenario.gpus(), seed), conditions.jitter,
                     seed};
  std::vector<double> link_bytes;
  if (scenario.run.explain_bottleneck || simulates_flows(sim)) sim.link_bytes = &link_bytes;
  sim.host_clock = scenario.run.host_clock;
  sim.work_times = !twin && scenario.gpus() <= most_with_work;
  sim.launch_queue = launches_ahead;
  if (!twin) sim.throttle = scenario.platform.throttle;  // else the twin's machine heeds it
  sim.execution = execution_of(run, !trace_path.empty());
  std::unique_ptr<GzipTraceSink> trace;
  if (!trace_path.empty()) trace = std::make_unique<GzipTraceSink>(trace_path);
  sim.trace = trace.get();
  ProgressLine line(std::cerr, stderr_progress(arguments.quiet));
  TrainingHooks hooks = with_progress(line, scenario, verb);
  Told told(run);
  ask(told, hooks, scenario);
  const auto world = make_sim_world(std::move(options), sim);
  add_services(*world, run);
  RunReport report = world->run(training_program(run, hooks));
  line.clear();
  if (twin) {
    twin->translate(report, memory);
    if (told.held_out)
      told.held_out->matrix_flops = told.held_out->matrix_flops * twin->flops_scale();
  }
  in.simulated_ranks = static_cast<int>(report.ranks.distinct());
  if (band) in.step_time_low_s = band->low_s, in.step_time_high_s = band->high_s;
  in.capacity = cluster.device_memory(0);
  in.unequal = !conditions.perfect() || different_kinds(cluster);
  in.link_use = link_use(cluster.links(), link_bytes, report.end);
  in.links = tier_use(in.link_use);
  in.peak = cluster.peak(scenario.product_dtype());
  if (!scenario.memory.reserve && scenario.reserve().value > 0)
    in.assumptions.push_back({"memory.reserve", format_bytes(scenario.reserve()),
                              "CUDA context, kernels and NCCL, as two GPUs show in "
                              "stas00/ml-engineering training/performance/README.md"});
  for (const Assumption& a : cluster.assumptions())
    in.assumptions.push_back({a.path, a.value, a.reason});
  return finish(std::move(in), std::move(report), scenario, watch, told);
}

std::string trace_path(const Arguments& arguments) {
  if (!arguments.trace) return "";
  if (arguments.out.empty())
    throw Error(Category::usage, "--trace needs --out, the folder to write to");
  return (std::filesystem::path(arguments.out) / "trace.json.gz").string();
}

void check_world(const Arguments& arguments, const ProcessGroup& group) {
  if (arguments.profile && arguments.world == "cpu")
    throw Error(
        Category::usage,
        "--profile is for --world cuda: on the processor kernels are timed one by one anyway");
  if (arguments.world == "cuda") {
    // In a child: what has asked CUDA anything cannot use it in children of its own. One of several
    // processes has none, and threads that do not go with one.
    const auto ask = [] { return cuda_support().missing; };
    if (const std::string missing = group.alone() ? in_child(ask) : ask(); !missing.empty())
      throw Error(Category::unavailable,
                  "no GPU can be used: " + missing + "; `--world cpu` runs on the processor");
    return;
  }
  if (arguments.world != "cpu")
    throw Error(Category::usage, "--world takes cpu or cuda, not '" + arguments.world + "'");
}

namespace {

std::unique_ptr<World> make_real_world(WorldOptions options, const Scenario& scenario,
                                       const Arguments& arguments, const ProcessGroup& group,
                                       std::vector<std::string>& warnings) {
  if (arguments.world == "cpu")
    return make_cpu_world(std::move(options), CpuOptions{scenario.platform.throttle});
  CudaProfile profile{arguments.profile, "", false};
  auto world = make_cuda_world_here(std::move(options), scenario.platform.throttle, profile,
                                    group.processes());
  if (!profile.missing.empty())
    warnings.push_back("kernels are timed between events, not by CUPTI: " + profile.missing);
  return world;
}

}  // namespace

std::optional<Outcome> run_scenario(const Scenario& scenario, const Arguments& arguments,
                                    const std::string& verb, const std::string& trace_path,
                                    const ProcessGroup& group) {
  const Stopwatch watch;
  WorldOptions options = world_options(scenario);
  std::unique_ptr<RunTrace> trace;
  if (!trace_path.empty()) trace = std::make_unique<RunTrace>(trace_path);
  options.observer = trace.get();
  load_replay(scenario, options);
  std::vector<Checkpoint> from, to(static_cast<std::size_t>(options.grid.size()));
  if (!arguments.resume.empty()) from = read_checkpoints(arguments.resume);
  ProgressLine line(std::cerr, stderr_progress(arguments.quiet));
  TrainingHooks hooks = with_progress(line, scenario, verb);
  const auto write = [&arguments](const std::vector<Checkpoint>& state) {
    const InterruptGuard guard;
    write_checkpoints(arguments.checkpoint, state);
  };
  ResultInput in = input_of(scenario, arguments.world.c_str());
  in.subject.cluster = in.subject.gpus = "";  // it runs here
  if (!arguments.resume.empty()) hooks.resume = &from;
  hooks.steps_before = &in.steps_before;
  if (!arguments.checkpoint.empty()) hooks.save = &to;
  if (arguments.checkpoint_every > 0 && workers_come_and_go(scenario))
    throw Error(Category::unavailable,
                "not available yet: checkpoints on the way, of workers that come and go")
        .with("hint", "leave out --checkpoint-every; --checkpoint alone keeps the end");
  hooks.checkpoint_every = arguments.checkpoint_every;
  hooks.checkpoint = write;
  Told told(scenario);
  ask(told, hooks, scenario);
  const auto world = make_real_world(std::move(options), scenario, arguments, group, in.warnings);
  add_services(*world, scenario);
  RunReport report = world->run(training_program(scenario, hooks));
  line.clear();
  if (trace != nullptr) trace->finish();
  if (hooks.save != nullptr) write(to);
  const auto all = group.gather(report, text_of(told));
  if (!group.speaks()) return std::nullopt;
  for (std::size_t process = 1; process < all.size(); ++process) add_to(told, all[process]);
  in.subject.steps -= in.steps_before;
  return finish(std::move(in), std::move(report), scenario, watch, told);
}

void deliver(const Outcome& outcome, const Scenario& scenario, const Arguments& arguments) {
  const InterruptGuard guard;
  if (!arguments.out.empty()) write_result_files(arguments.out, outcome, scenario, arguments);
  if (!arguments.quiet)
    for (const std::string& warning : outcome.result.input.warnings)
      fmt::print(stderr, "{}{}\n",
                 styled("warning: ", Style::yellow, use_color(arguments.color, is_terminal(2))),
                 warning);
  if (arguments.json)
    fmt::print("{}", to_json(outcome.result));
  else
    fmt::print("{}", to_table(outcome.result, use_color(arguments.color, is_terminal(1))));
  if (std::fflush(stdout) == 0) result_was_printed();
}

}  // namespace orrery::cli
