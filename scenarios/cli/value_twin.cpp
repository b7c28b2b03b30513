#include "scenarios/cli/value_twin.hpp"

#include <cmath>
#include <cstring>

#include "algorithms/replica.hpp"
#include "scenarios/cli/memory_world.hpp"
#include "scenarios/training.hpp"

namespace orrery::cli {

namespace {

constexpr std::int64_t no_vector_bytes = 64;  // at most: counts, norms, losses

std::int64_t times(std::int64_t n, double scale) {
  return std::llround(static_cast<double>(n) * scale);
}

// Works on flat vectors, whatever the model.
bool is_flat(const Kernel& kernel) {
  switch (kernel.op) {
    case Op::linear_combination:
    case Op::fill:
    case Op::cast:
    case Op::sum_squares:
    case Op::sgd:
    case Op::adamw:
    case Op::custom:
      return true;
    case Op::streaming:
      return std::strcmp(kernel.label, "copy") == 0;
    default:
      return false;
  }
}

// The same work on vectors `scale` times as long.
Kernel longer(Kernel kernel, double scale) {
  if (kernel.op == Op::custom) {
    kernel.scalars[0] *= scale;
    kernel.scalars[1] *= scale;
  }
  if (kernel.op == Op::streaming) kernel.dims[1] = times(kernel.dims[1], scale);
  kernel.dims[0] = times(kernel.dims[0], scale);
  return kernel;
}

// What one micro-batch launches, on one rank.
std::vector<Kernel> micro_batch_kernels(const Scenario& scenario) {
  WorldOptions options;  // of a single rank
  options.seed = scenario.run.seed;
  std::vector<Kernel> all;
  bool passes = false;  // set-up is over
  const World::Program program = [&](Rank& rank) {
    ReplicaOptions replica_options;
    replica_options.micro_batches = scenario.micro_batches();
    replica_options.recompute = scenario.recompute ? Recompute::full : Recompute::none;
    Replica replica(rank, make_model(scenario, nullptr), replica_options);
    replica.zero_gradients();
    passes = true;
    replica.accumulate_micro_batch({0, static_cast<int>(scenario.data.micro_batch)});
    passes = false;
  };
  launched_by_rank(options, program, 0, [&](const PreparedKernel& kernel) {
    if (passes && !is_flat(kernel.kernel)) all.push_back(kernel.kernel);
  });
  return all;
}

}  // namespace

TwinMachine::TwinMachine(const Machine& machine, const Scenario& timed)
    : machine_(machine),
      scale_(static_cast<double>(timed.model_spec.parameters()) /
             static_cast<double>(timed.twin->model_spec.parameters())),
      timed_(micro_batch_kernels(timed)),
      twin_(micro_batch_kernels(*timed.twin)) {}

Bytes TwinMachine::scaled(Bytes size) const {
  return size.value <= no_vector_bytes ? size : Bytes(times(size.value, scale_));
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
  const bool vector = kernel.op == Op::custom || kernel.dims[0] * 4 > no_vector_bytes;
  if (!vector) return machine_.kernel_time(kernel, kernel_cost, kind);
  const Kernel large = longer(kernel, scale_);
  return machine_.kernel_time(large, cost(large), kind);
}

CollectivePlan TwinMachine::plan(Collective kind, Bytes size,
                                 const std::vector<int>& members) const {
  CollectivePlan plan = machine_.plan(kind, scaled(size), members);
  plan.volume = wire_bytes(kind, size, static_cast<int>(members.size()));  // the twin's own
  return plan;
}

}  // namespace orrery::cli
