// Runs a pipeline of stages that take stated times, for exact tests of schedules.
#pragma once

#include <algorithm>
#include <vector>

#include "algorithms/pipeline/schedule.hpp"
#include "algorithms/replica.hpp"
#include "backend/cpu/bodies.hpp"
#include "sim/world.hpp"

namespace orrery {

struct StageTimes {
  double forward = 1, backward = 2;
};

struct PipelineCase {
  std::string schedule = "1f1b";
  int stages = 4, micro_batches = 8;
  double latency = 0;             // of a transfer between neighbours
  std::vector<StageTimes> times;  // by stage; empty: the default for all
  StageTimes at(int stage) const {
    return times.empty() ? StageTimes{} : times[static_cast<std::size_t>(stage)];
  }
};

// A block that takes its stated times and keeps `saved` elements in between.
class TimedBlock : public Block {
 public:
  TimedBlock(StageTimes times, std::int64_t outputs, std::int64_t saved, bool last)
      : times_(times) {
    parameters_ = {{"weight", 1, 0, 0, true}};
    output_elements_ = outputs;
    saved_elements_ = saved;
    computes_loss_ = last;
  }
  void prepare(Rank& rank) override {
    forward_ = rank.prepare(Kernel::timed("F", Seconds(times_.forward)));
    backward_ = rank.prepare(Kernel::timed("B", Seconds(times_.backward)));
  }
  void forward(const BlockPass& pass) const override { pass.stream.launch(forward_); }
  void backward(const BlockPass& pass) const override { pass.stream.launch(backward_); }

 private:
  StageTimes times_;
  Prepared forward_, backward_;
};

// One step. Once per process.
inline RunReport run_pipeline(const PipelineCase& c, std::int64_t saved = 1000) {
  UniformSpec spec;
  spec.gpus = c.stages;
  spec.alpha = to_time(Seconds(c.latency));
  spec.bandwidth = BytesPerSecond(1e30);
  const UniformMachine machine(spec);
  WorldOptions options;
  options.grid.set(Axis::pipeline, c.stages);
  options.bodies = &cpu_bodies();  // for the counters and scalars that have values in every run
  SimOptions sim;
  sim.machine = &machine;
  return make_sim_world(options, sim)->run([&](Rank& rank) {
    Model model;
    model.blocks.push_back(std::make_shared<TimedBlock>(StageTimes{0, 0}, 1, 0, false));
    for (int stage = 0; stage < c.stages; ++stage)
      model.blocks.push_back(std::make_shared<TimedBlock>(c.at(stage), 1, saved, false));
    model.blocks.push_back(std::make_shared<TimedBlock>(StageTimes{0, 0}, 0, 0, true));
    ReplicaOptions replica_options;
    replica_options.micro_batches = c.micro_batches;
    replica_options.schedule = c.schedule;
    replica_options.optimizer.name = "sgd";
    Replica replica(rank, std::move(model), replica_options);
    Progress progress(rank, {1, c.micro_batches});
    replica.accumulate_gradients(progress);
    progress.step_issued({replica.compute().record(), {}});
    progress.finish();
  });
}

inline double makespan(const RunReport& report) {
  Time last;
  for (const RankReport& rank : report.ranks) last = std::max(last, rank.steps.at(0).at);
  return last.seconds().value;
}

// The same by plain recursion over the schedule's lists: a task starts when its stage is free and
// its input has arrived.
inline double reference_makespan(const PipelineCase& c) {
  const auto stages = static_cast<std::size_t>(c.stages),
             micro_batches = static_cast<std::size_t>(c.micro_batches);
  std::vector<std::vector<PipelineTask>> lists;
  for (int stage = 0; stage < c.stages; ++stage)
    lists.push_back(expand(make_schedule(c.schedule, stage, c.stages, c.micro_batches)));
  std::vector<std::vector<double>> forward(stages, std::vector<double>(micro_batches, -1)),
      backward = forward;
  std::vector<std::size_t> at(stages, 0);
  std::vector<double> free(stages, 0);
  for (bool moved = true; moved;) {
    moved = false;
    for (std::size_t s = 0; s < stages; ++s) {
      while (at[s] < lists[s].size()) {
        const PipelineTask task = lists[s][at[s]];
        const auto m = static_cast<std::size_t>(task.micro_batch);
        const bool is_forward = task.work == Work::forward;
        const bool first = is_forward ? s == 0 : s == stages - 1;
        const double input = first ? 0 : (is_forward ? forward[s - 1][m] : backward[s + 1][m]);
        if (input < 0) break;
        const StageTimes times = c.at(static_cast<int>(s));
        free[s] = std::max(free[s], first ? 0.0 : input + c.latency) +
                  (is_forward ? times.forward : times.backward);
        (is_forward ? forward : backward)[s][m] = free[s];
        ++at[s];
        moved = true;
      }
    }
  }
  return *std::max_element(free.begin(), free.end());
}

}  // namespace orrery
