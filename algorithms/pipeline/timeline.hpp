// A schedule laid out in time by a list simulator: a task starts when its device is free and its
// input has arrived. Memory and links are unlimited.
#pragma once

#include <vector>

#include "algorithms/pipeline/schedule.hpp"

namespace orrery {

struct TimedTask {
  PipelineTask task;
  double start = 0, end = 0;
};

struct Timeline {
  std::vector<std::vector<TimedTask>> devices;
  double makespan() const;  // to the end of the last task
  // The most time from a device's first task to its last: what a step takes when no device waits
  // for others between steps, as the zero bubble papers count.
  double longest_span() const;
  double busy(int device) const;  // time with a task
};

// One step of a schedule that drains, or as much of one that does not as a single step would be:
// its micro-batches of later steps are left out. `times` by stage, or one for all; of a pair of
// tasks, both take `pair` together if that is positive. Error{deadlock} when it does not come to an
// end.
Timeline lay_out(const PipelineSchedule& schedule, const std::vector<TaskTimes>& times = {{}},
                 double pair = 0);

// The most activations that each device holds, in units of one micro-batch of one stage: one from
// a forward on, `for_weights` of it from the backward_input on, none after the weight gradients.
std::vector<double> peak_activations(const PipelineSchedule& schedule, double for_weights = 1);

// Error{invalid_program} unless every micro-batch of a step goes forward and backward once through
// every stage of its pipe, weight gradients come after backward_input, and it ends.
void check(const PipelineSchedule& schedule);

// How many transfers over one edge are under way at once, at most: sent and not yet waited for when
// the sender starts its next task, in the order of a timeline. With as many buffers nobody waits
// for a buffer that waits for him.
int transfers_under_way(const PipelineSchedule& schedule);

}  // namespace orrery
