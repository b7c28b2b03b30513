// Pipeline schedules as data.
//
// A schedule says, per stage, in which order forwards and backwards are issued: a list of segments,
// each a pattern of tasks that repeats with the micro-batch numbers moved on. One function per
// schedule; one executor (executor.hpp) runs them all.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace orrery {

enum class Work : unsigned char { forward, backward, backward_input, backward_weight };

struct PipelineTask {
  Work work = Work::forward;
  int chunk = 0;  // of this stage
  int micro_batch = 0;
  bool operator==(const PipelineTask&) const = default;
};

// `tasks`, repeated; repetition r adds r * stride to every micro-batch number.
struct Segment {
  std::vector<PipelineTask> tasks;
  int repeats = 1;
  int stride = 1;
};
using StageSchedule = std::vector<Segment>;

// All tasks in order.
std::vector<PipelineTask> expand(const StageSchedule& schedule);

// GPipe (Huang et al. 2019, arXiv 1811.06965): all forwards, then all backwards. Peak: m
// micro-batches on every stage.
StageSchedule gpipe(int stage, int stages, int micro_batches);

// 1F1B with flush (PipeDream-flush, Narayanan et al. 2021, arXiv 2006.09503; Megatron-LM's
// default): min(p-1-s, m) forwards, then forward and backward in turn, then the backwards left.
// Peak: min(p - s, m) micro-batches on stage s.
StageSchedule one_forward_one_backward(int stage, int stages, int micro_batches);

// By the name used in scenarios: "gpipe", "1f1b". Error{config} for an unknown one.
StageSchedule make_schedule(const std::string& name, int stage, int stages, int micro_batches);

}  // namespace orrery
