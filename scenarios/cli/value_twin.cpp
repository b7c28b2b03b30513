#include "scenarios/cli/value_twin.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "algorithms/replica.hpp"
#include "backend/core/table.hpp"
#include "scenarios/training.hpp"

namespace orrery::cli {

namespace {

constexpr std::int64_t no_vector_bytes = 64;  // at most: counts, norms, losses

std::int64_t times(std::int64_t n, double scale) {
  return std::llround(static_cast<double>(n) * scale);
}

// Works on flat vectors or on single numbers, whatever the model.
bool is_flat(const Kernel& kernel) {
  switch (kernel.op) {
    case Op::linear_combination:
    case Op::fill:
    case Op::cast:
    case Op::sum_squares:
    case Op::clip_scale:
    case Op::initialise:
    case Op::sgd:
    case Op::adamw:
    case Op::host_copy:
    case Op::custom:
      return true;
    case Op::streaming:
      return std::strcmp(kernel.label, "copy") == 0;
    default:
      return false;
  }
}

// Of a kernel on flat vectors, the length.
std::int64_t length(const Kernel& kernel) {
  return kernel.dims[kernel.op == Op::initialise ? 1 : 0];
}

// The same work on vectors `scale` times as long.
Kernel longer(Kernel kernel, double scale) {
  if (kernel.op == Op::custom) {
    kernel.scalars[0] *= scale;
    kernel.scalars[1] *= scale;
  }
  if (kernel.op == Op::streaming) kernel.dims[1] = times(kernel.dims[1], scale);
  kernel.dims[kernel.op == Op::initialise ? 1 : 0] = times(length(kernel), scale);
  return kernel;
}

// Everything that a rank does in set-up, and `then`, in a world that only keeps accounts.
void set_up(const Scenario& scenario, const WorldOptions& options,
            const std::function<void(Replica&)>& then,
            const std::function<void(const PreparedKernel&)>& launched) {
  const World::Program program = [&](Rank& rank) {
    Replica replica(rank, make_model(scenario, nullptr), replica_options(scenario));
    then(replica);
  };
  launched_by_rank(options, program, 0, launched);
}

// What one micro-batch launches, on one rank.
std::vector<Kernel> micro_batch_kernels(const Scenario& scenario) {
  WorldOptions options;  // of a single rank
  options.seed = scenario.run.seed;
  std::vector<Kernel> all;
  bool passes = false;  // set-up is over
  const auto micro_batch = [&](Replica& replica) {
    replica.zero_gradients();
    passes = true;
    replica.accumulate_micro_batch({0, static_cast<int>(scenario.data.micro_batch)});
    passes = false;
  };
  set_up(scenario, options, micro_batch, [&](const PreparedKernel& kernel) {
    if (passes && !is_flat(kernel.kernel)) all.push_back(kernel.kernel);
  });
  return all;
}

// Calls `ask` with the algorithm as a rank has set it up.
void ask_algorithm(const Scenario& scenario, const std::function<void(const Algorithm&)>& ask) {
  set_up(scenario, world_options(scenario),
         [&](Replica& replica) { ask(*scenario.algorithm.plan.make(replica)); }, {});
}

// That the bytes of the one, scaled, are the bytes of the other: in the long run, as fragments that
// meet in turn differ in size.
void check_sent(const Scenario& timed, double scale) {
  if (!timed.algorithm.plan.services.empty()) return;  // averagings send the parameters
  constexpr std::int64_t steps = 1'000'000;
  std::optional<Bytes> large, small;
  ask_algorithm(timed, [&](const Algorithm& a) { large = a.sent(steps); });
  ask_algorithm(*timed.twin, [&](const Algorithm& a) { small = a.sent(steps); });
  if (!large || !small) return;
  const auto sent = static_cast<double>(large->value);
  const double stands_for = static_cast<double>(small->value) * scale;
  if (std::fabs(stands_for - sent) <= 0.02 * sent) return;
  throw Error(
      Category::config,
      fmt::format("{} sends {} in a step of {}, but {} in one of {}, in its measure: what "
                  "it sends does not grow with the parameters alone",
                  timed.algorithm.name, format_bytes(Bytes(large->value / steps)),
                  timed.model_spec.name, format_bytes(Bytes(std::llround(stands_for / steps))),
                  timed.twin->model_spec.name))
      .with(
          "hint",
          "leave value_model out, or use one whose messages are as large a part of its parameters");
}

double matrix_flops(const std::vector<Kernel>& kernels) {
  double sum = 0;
  for (const Kernel& kernel : kernels) sum += cost(kernel).matrix.value;
  return sum;
}

Time later(Time time, const std::optional<Throttle>& throttle, Collective kind, Bytes size,
           int members) {
  return throttle ? std::max(time, throttled_time(*throttle, kind, size, members)) : time;
}

}  // namespace

std::vector<Bytes> sent_by_plan(const Scenario& scenario) {
  std::vector<Bytes> all;
  if (!scenario.algorithm.plan.services.empty()) return all;  // who meets when, no plan tells
  ask_algorithm(scenario, [&](const Algorithm& algorithm) {
    for (std::int64_t steps = 1; steps <= scenario.run.steps; ++steps) {
      const std::optional<Bytes> sent = algorithm.sent(steps);
      if (!sent) return;
      all.push_back(*sent);
    }
  });
  return all;
}

TwinMachine::TwinMachine(const Machine& machine, const Scenario& timed)
    : machine_(machine), throttle_(timed.platform.throttle) {
  ORRERY_ASSERT(timed.twin != nullptr, "a scenario with a value model");
  scale_ = static_cast<double>(timed.model_spec.parameters()) /
           static_cast<double>(timed.twin->model_spec.parameters());
  check_sent(timed, scale_);
  timed_ = micro_batch_kernels(timed);
  twin_ = micro_batch_kernels(*timed.twin);
}

double TwinMachine::flops_scale() const { return matrix_flops(timed_) / matrix_flops(twin_); }

Bytes TwinMachine::scaled(Bytes size) const {
  return size.value <= no_vector_bytes ? size : Bytes(times(size.value, scale_));
}

void TwinMachine::translate(RunReport& report, const RankMemory& memory) const {
  const double flops = flops_scale();
  for (RankReport& rank : report.ranks) {
    for (ChannelReport& channel : rank.channels)
      if (channel.use.bytes.value > no_vector_bytes * static_cast<std::int64_t>(channel.use.calls))
        channel.use.bytes = Bytes(times(channel.use.bytes.value, scale_));
    rank.matrix_flops = rank.matrix_flops * flops;
    rank.peak = memory.peak;
    rank.peak_by_label = memory.by_label;
  }
}

double TwinMachine::stretch(int kind) const {
  const auto found = stretch_.find(kind);
  if (found != stretch_.end()) return found->second;
  const auto total = [&](const std::vector<Kernel>& kernels) {
    Time sum;
    for (const Kernel& kernel : kernels) sum += machine_.kernel_time(kernel, cost(kernel), kind);
    return sum.seconds().value;
  };
  return stretch_[kind] = total(timed_) / total(twin_);
}

Time TwinMachine::kernel_time(const Kernel& kernel, const Cost& kernel_cost, int kind) const {
  if (!is_flat(kernel))
    return to_time(machine_.kernel_time(kernel, kernel_cost, kind).seconds() * stretch(kind));
  const bool vector = kernel.op == Op::custom || length(kernel) * 4 > no_vector_bytes;
  if (!vector) return machine_.kernel_time(kernel, kernel_cost, kind);
  const Kernel large = longer(kernel, scale_);
  return machine_.kernel_time(large, cost(large), kind);
}

Time TwinMachine::message_time(int from, int to, Bytes size) const {
  return later(machine_.message_time(from, to, scaled(size)), throttle_, Collective::send,
               scaled(size), 2);
}

CollectivePlan TwinMachine::plan(Collective kind, Bytes size,
                                 const std::vector<int>& members) const {
  CollectivePlan plan = machine_.plan(kind, scaled(size), members);
  plan.total = later(plan.total, throttle_, kind, scaled(size), static_cast<int>(members.size()));
  return plan;
}

}  // namespace orrery::cli
