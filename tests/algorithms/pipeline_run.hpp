// Runs a pipeline of stages that take stated times, for exact tests of schedules.
#pragma once

#include <algorithm>
#include <vector>

#include "algorithms/pipeline/timeline.hpp"
#include "algorithms/replica.hpp"
#include "backend/cpu/bodies.hpp"
#include "sim/world.hpp"

namespace orrery {

struct PipelineCase {
  std::string schedule = "1f1b";
  int devices = 4, micro_batches = 8, chunks = 1;
  std::vector<TaskTimes> times{{}};  // of a stage, one for all or by stage
  double latency = 0;                // of a transfer between neighbours
  double pair = 0;                   // of a forward overlapped with a backward; 0: their sum
  int steps = 1;
  int limit = 0;  // of zb-auto
  PipelineShape shape() const {
    PipelineShape s{devices, micro_batches};
    s.chunks = chunks;
    s.activation_limit = limit;
    if (schedule == "zb-auto") s.times = times[0];
    return s;
  }
  std::shared_ptr<const PipelineSchedule> make() const { return make_schedule(schedule, shape()); }
  TaskTimes at(int stage) const {
    return times[times.size() == 1 ? 0 : static_cast<std::size_t>(stage)];
  }
  // As the list simulator lays it out.
  Timeline laid_out() const {
    std::vector<TaskTimes> all = times;
    for (TaskTimes& t : all) t.communication = latency;
    return lay_out(*make(), all, pair);
  }
};

// A block that takes its stated times and keeps `saved` elements from its forward to its backward,
// or `kept` of them to the gradients of its weights.
class TimedBlock : public Block {
 public:
  struct Sizes {
    std::int64_t outputs = 1, saved = 0, kept = 0;
  };
  TimedBlock(const TaskTimes& times, double pair, const Sizes& sizes, bool last)
      : times_(times), pair_(pair) {
    parameters_ = {{"weight", 1, 0, 0, true}};
    output_elements_ = sizes.outputs;
    saved_elements_ = sizes.saved;
    kept_elements_ = sizes.kept;
    computes_loss_ = last;
  }
  void prepare(Rank& rank) override {
    const auto timed = [&](const char* label, double seconds) {
      return rank.prepare(Kernel::timed(label, Seconds(seconds)));
    };
    const double both = times_.backward_input + times_.backward_weight;
    forward_ = timed("F", times_.forward);
    backward_ = timed("B", both);
    backward_input_ = timed("Bi", times_.backward_input);
    backward_weight_ = timed("W", times_.backward_weight);
    if (pair_ > 0) beside_ = timed("F beside B", pair_ - both);
  }
  void forward(const BlockPass& pass) const override {
    pass.stream.launch(pass.paired && pair_ > 0 ? beside_ : forward_);
  }
  void backward(const BlockPass& pass) const override { pass.stream.launch(backward_); }
  void backward_input(const BlockPass& pass) const override { pass.stream.launch(backward_input_); }
  void backward_weight(const BlockPass& pass) const override {
    pass.stream.launch(backward_weight_);
  }

 private:
  TaskTimes times_;
  double pair_;
  Prepared forward_, backward_, backward_input_, backward_weight_, beside_;
};

// One program per process. `sizes` of each stage's block.
inline RunReport run_pipeline(const PipelineCase& c,
                              const TimedBlock::Sizes& sizes = {1, 1000, 0}) {
  UniformSpec spec;
  spec.gpus = c.devices;
  spec.alpha = to_time(Seconds(c.latency));
  spec.bandwidth = BytesPerSecond(1e30);
  const UniformMachine machine(spec);
  WorldOptions options;
  options.grid.set(Axis::pipeline, c.devices);
  options.bodies = &cpu_bodies();  // for the counters and scalars that have values in every run
  SimOptions sim;
  sim.machine = &machine;
  return make_sim_world(options, sim)->run([&](Rank& rank) {
    Model model;
    const TaskTimes none{0, 0, 0, 0};
    model.blocks.push_back(
        std::make_shared<TimedBlock>(none, 0, TimedBlock::Sizes{1, 0, 0}, false));
    for (int stage = 0; stage < c.make()->stages; ++stage)
      model.blocks.push_back(std::make_shared<TimedBlock>(c.at(stage), c.pair, sizes, false));
    model.blocks.push_back(std::make_shared<TimedBlock>(none, 0, TimedBlock::Sizes{0, 0, 0}, true));
    ReplicaOptions replica_options;
    replica_options.micro_batches = c.micro_batches;
    replica_options.schedule = c.schedule;
    replica_options.chunks = c.chunks;
    replica_options.activation_limit = c.limit;
    replica_options.times = c.times[0];
    replica_options.optimizer.name = "sgd";
    Replica replica(rank, std::move(model), replica_options);
    Progress progress(rank, {c.steps, c.micro_batches});
    while (progress.more()) {
      replica.accumulate_gradients(progress);
      replica.optimizer_step(replica.compute(), replica.parameters());
      progress.step_issued({replica.compute().record(), {}});
    }
    progress.finish();
  });
}

// To the end of step `step` on the last device to get there.
inline double makespan(const RunReport& report, std::size_t step = 0) {
  Time last;
  for (const RankReport& rank : report.ranks) last = std::max(last, rank.steps.at(step).at);
  return last.seconds().value;
}

}  // namespace orrery
