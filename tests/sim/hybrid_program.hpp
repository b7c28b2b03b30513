// A training step in outline over all the axes that a plan has, on machines whose ranks need not be
// alike; for tests that compare who issues for the ranks.
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "tests/sim/simulate.hpp"

namespace orrery {

struct HybridPlan {
  int tensor = 1, context = 1, pipeline = 1, data = 1, shard = 1;
  int ranks() const { return tensor * context * pipeline * data * shard; }
  Grid grid() const {
    Grid grid;
    return grid.set(Axis::tensor, tensor)
        .set(Axis::context, context)
        .set(Axis::pipeline, pipeline)
        .set(Axis::replicate, data)
        .set(Axis::shard, shard);
  }
};

// Micro-batches run through the stages; each computes, reduces over tensor, passes something around
// the context ring, and sends on. Then gradients and a norm are reduced, and the host waits.
inline void hybrid_program(Rank& rank) {
  const int stages = rank.size(Axis::pipeline), stage = rank.coordinate(Axis::pipeline);
  Stream& compute = rank.stream("compute");
  Stream& comm = rank.stream("comm");
  Stream& in = rank.stream("in");
  Stream& out = rank.stream("out");
  Channel& tensor = rank.channel(Axis::tensor, "activations");
  Channel& data = rank.channel(Axis::replicate, "gradients");
  Channel& norm = rank.channel(Axes{Axis::tensor, Axis::pipeline}, "norm");
  Channel* next = stages > 1 ? &rank.edge(Axis::pipeline, +1, "activations") : nullptr;
  Channel* ring = rank.size(Axis::context) > 1 ? &rank.edge(Axis::context, +1, "keys") : nullptr;
  Tensor weights = rank.allocate(compute, Label::parameters, 4096, Dtype::bf16);
  const Tensor loss =
      rank.allocate(compute, Label::activations, 1, Dtype::fp32, {.values = Values::always});
  const Prepared kernel =
      rank.prepare(Kernel::timed("work", us(3.3 + stage), {Role::read, Role::update, Role::none}));
  const Prepared update = rank.prepare(Kernel::timed("update", us(1.7), {Role::update}));
  const auto part = static_cast<double>(rank.part(Axis::replicate));
  for (int step = 0; step < 3; ++step) {
    for (int batch = 0; batch < 4; ++batch) {
      Tensor x = rank.allocate(in, Label::activations, 1000, Dtype::bf16);
      compute.after(stage > 0 ? in.receive(x, *next) : in.record());
      compute.upload(loss, {part + batch});
      compute.launch(kernel, {weights, x});
      comm.after(compute.record());
      compute.after(comm.all_reduce(x, Reduce::sum, tensor));
      if (ring != nullptr) {
        Tensor theirs = rank.allocate(in, Label::communication, 1000, Dtype::bf16);
        out.after(compute.record());
        const Event sent = out.send(x, *ring);
        compute.after(in.receive(theirs, *ring));
        compute.launch(kernel, {theirs, weights});
        compute.after(sent);
        in.after(compute.record());
      }
      if (stage + 1 < stages) {
        out.after(compute.record());
        compute.after(out.send(x, *next));
      }
      in.after(compute.record());
    }
    comm.after(compute.record());
    comm.all_reduce(weights, Reduce::mean, data);
    compute.after(comm.all_reduce(loss, Reduce::sum, norm));
    compute.launch(update, {weights});
    compute.mark_step(step);
    if (step > 0) rank.wait(compute.record());
  }
}

// Nodes of GPUs: messages and collectives within one have the alpha of the uniform machine, others
// four times that; GPUs of every `kinds`-th node are alike.
class Nodes : public UniformMachine {
 public:
  Nodes(UniformSpec spec, int per_node, int kinds = 1)
      : UniformMachine(spec), spec_(std::move(spec)), per_node_(per_node), kinds_(kinds) {}
  int kind(int gpu) const override { return gpu / per_node_ % kinds_; }
  Time kernel_time(const Kernel& kernel, const Cost& cost, int kind) const override {
    return UniformMachine::kernel_time(kernel, cost, kind) * static_cast<std::uint64_t>(1 + kind);
  }
  Time latency(int from, int to) const override {
    return spec_.alpha * (from / per_node_ == to / per_node_ ? 1 : 4);
  }
  CollectivePlan plan(Collective kind, Bytes size, const std::vector<int>& members) const override {
    const auto [first, last] = std::minmax_element(members.begin(), members.end());
    return ring_plan(kind, size, static_cast<int>(members.size()), latency(*first, *last),
                     spec_.bandwidth);
  }
  Time kernel_time_beside(const Kernel& kernel, const Cost& cost, int kind,
                          const Taken& taken) const override {
    return UniformMachine::kernel_time_beside(kernel, cost, kind, taken) *
           static_cast<std::uint64_t>(1 + kind);
  }
  // Of communications that leave a node, a half of the processors.
  Taken waiting(Collective, const std::vector<int>& members) const override {
    const auto [first, last] = std::minmax_element(members.begin(), members.end());
    Taken taken = spec_.waiting;
    if (*first / per_node_ != *last / per_node_) taken.multiprocessors /= 2;
    return taken;
  }

 private:
  UniformSpec spec_;
  int per_node_, kinds_;
};

struct HybridCase {
  HybridPlan plan;
  int per_node = 1, kinds = 1;
  bool host_clock = true;
  std::uint32_t launch_queue = 64;
  std::uint32_t neighbourhood = 128;
  std::vector<std::uint16_t>* neighbourhood_of = nullptr;
  sim::Variability variability{};
  Fidelity fidelity = Fidelity::automatic;
  bool interference = false;  // kernels beside communications have 2 or 3 of 4 processors
  World::Program program = hybrid_program;

  // In this process, once.
  RunReport run(Execution execution, TraceSink* trace = nullptr) const {
    UniformSpec spec;
    spec.gpus = plan.ranks();
    spec.alpha = 2_us;
    spec.bandwidth = BytesPerSecond(50e9);
    spec.host = {400_ns, 900_ns, 1500_ns, 5_us};
    if (interference) {
      spec.waiting.multiprocessors = 2;
      spec.kernel_time_beside = [](const Kernel& kernel, const Cost&, const Taken& taken) {
        const double left = std::max(1, 4 - taken.multiprocessors);
        return to_time(Seconds(kernel.scalars[1] * 4 / left));
      };
    }
    const Nodes machine(spec, per_node, kinds);
    WorldOptions world;
    world.grid = plan.grid();
    SimOptions options;
    options.machine = &machine;
    options.execution = execution;
    options.host_clock = host_clock;
    options.launch_queue = launch_queue;
    options.neighbourhood = neighbourhood;
    options.neighbourhood_of = neighbourhood_of;
    options.variability = variability;
    options.fidelity = fidelity;
    options.trace = trace;
    return make_sim_world(world, options)->run(program);
  }
  // In a process of its own: how many ranks had a report of their own, then everything reported.
  std::string text(Execution execution) const {
    return in_child([&] {
      const RunReport report = run(execution);
      return std::to_string(report.ranks.distinct()) + " ranks\n" + to_text(report);
    });
  }
};

// Without the first line.
inline std::string figures(const std::string& text) { return text.substr(text.find('\n') + 1); }
inline std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

}  // namespace orrery
