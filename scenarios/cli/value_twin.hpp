// The value twin: a small model that is trained while the clock runs as for a large one.
//
// The program is the small model's, with values; the machine under it answers as if it were the
// large one's. The small model's flat parameter vector stands for the large one's, range by range
// and in proportion: each of its elements for `scale` of them. So
//   what works on flat vectors (optimizers, averages, codecs, copies) and what is communicated is
//   timed at `scale` times its size, and
//   the kernels of the model are stretched so that a micro-batch takes as long as the large one's.
// Staleness, overlap, how many micro-batches ACCO takes and who meets whom under gossip are then
// those of the large model on its cluster; what a parameter learns is the small model's.
//
// What it cannot tell: within a pass, layers end where the small model's do, in proportion; there
// are no more buckets (of ddp and zero) than the small model has parameters, so with many small
// buckets their alphas are too few; and hosts issue the small model's operations, so that training
// which waits for its hosts is timed as if the large model had as few.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "backend/throttle.hpp"
#include "backend/world.hpp"
#include "platforms/machine.hpp"
#include "scenarios/cli/memory_world.hpp"
#include "scenarios/scenario.hpp"

namespace orrery::cli {

class TwinMachine : public Machine {
 public:
  // `machine` is that of the timed scenario and outlives this. Throttles like the scenario. Throws
  // Error{config} where what the algorithm sends does not grow with the model's parameters, and
  // Error{invalid_program} without a twin.
  TwinMachine(const Machine& machine, const Scenario& timed);
  double scale() const { return scale_; }  // parameters of the timed model, per one of the twin's
  // FLOPs of the timed model in a micro-batch, per one of the twin's.
  double flops_scale() const;
  // As if each byte were `scale` of them, but for what holds no vector: counts, norms, losses.
  Bytes scaled(Bytes size) const;
  // Makes the report of the twin's run one of the timed model's: its bytes, FLOPs and memory.
  void translate(RunReport& report, const RankMemory& memory) const;

  int gpus() const override { return machine_.gpus(); }
  Bytes device_memory(int) const override { return Bytes(0); }  // the twin's is not the question
  int kind(int gpu) const override { return machine_.kind(gpu); }
  Time kernel_time(const Kernel& kernel, const Cost& cost, int kind) const override;
  HostCosts host(int gpu) const override { return machine_.host(gpu); }
  Time latency(int from, int to) const override { return machine_.latency(from, to); }
  BytesPerSecond bandwidth(int from, int to) const override {
    return machine_.bandwidth(from, to) * (1 / scale_);
  }
  Time message_time(int from, int to, Bytes size) const override;
  CollectivePlan plan(Collective kind, Bytes size, const std::vector<int>& members) const override;
  std::vector<std::vector<int>> rings(const std::vector<int>& members) const override {
    return machine_.rings(members);
  }
  std::vector<Flow> flows(Collective kind, Bytes size,
                          const std::vector<int>& members) const override {
    return machine_.flows(kind, scaled(size), members);
  }
  const std::vector<LinkSpec>& links() const override { return machine_.links(); }
  void route(int from, int to, std::vector<std::uint32_t>& path) const override {
    machine_.route(from, to, path);
  }

 private:
  double stretch(int kind) const;  // of the twin's own kernels
  const Machine& machine_;
  std::optional<Throttle> throttle_;
  double scale_;
  std::vector<Kernel> timed_, twin_;  // of a micro-batch, forward and backward
  mutable std::map<int, double> stretch_;
};

// What a rank sends in the first 1, 2, … run.steps steps, by the cost block of the algorithm; empty
// where it does not tell.
std::vector<Bytes> sent_by_plan(const Scenario& scenario);

}  // namespace orrery::cli
