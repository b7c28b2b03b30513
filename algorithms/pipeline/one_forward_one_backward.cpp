// 1F1B, drained after each step or never.
#include <algorithm>

#include "algorithms/pipeline/task_order.hpp"

namespace orrery {

PipelineSchedule one_forward_one_backward(const PipelineShape& shape) {
  const int p = shape.devices, m = shape.micro_batches;
  PipelineSchedule s("1f1b", shape, one_stage_each(p));
  for (int device = 0; device < p; ++device) {
    const int warm_up = std::min(p - 1 - device, m);
    TaskOrder order;
    for (int i = 0; i < warm_up; ++i) order.forward();
    for (int i = warm_up; i < m; ++i) order.forward().backward();
    for (int i = 0; i < warm_up; ++i) order.backward();
    s.tasks.push_back(order.take());
  }
  return s;
}

namespace {

// Device s is `lead` (p - 1 - s) forwards ahead, from the first step to the last.
PipelineSchedule never_drained(const char* name, const PipelineShape& shape, int lead = 1) {
  const int p = shape.devices, m = shape.micro_batches;
  PipelineSchedule s(name, shape, one_stage_each(p));
  for (int device = 0; device < p; ++device) {
    const int ahead = lead * (p - 1 - device);
    TaskOrder before, step;
    for (int i = 0; i < ahead; ++i) before.forward();
    TaskList tasks;
    for (int i = 0; i < m; ++i) {
      tasks.push_back({Work::forward, 0, i + ahead});
      tasks.push_back({Work::backward, 0, i});
    }
    s.warm_up.push_back(before.take());
    s.tasks.push_back(std::move(tasks));
  }
  return s;
}

}  // namespace

PipelineSchedule pipedream(const PipelineShape& shape) {
  PipelineSchedule s = never_drained("pipedream", shape);
  for (int device = 0; device < shape.devices; ++device)
    s.delays.push_back(shape.devices - 1 - (shape.vertical_sync ? 0 : device));
  return s;
}

PipelineSchedule pipedream_2bw(const PipelineShape& shape) {
  PipelineSchedule s = never_drained("pipedream-2bw", shape);
  s.delays.assign(static_cast<std::size_t>(shape.devices), 1);
  return s;
}

PipelineSchedule petra(const PipelineShape& shape) {
  PipelineSchedule s = never_drained("petra", shape, 2);
  const int k = shape.micro_batches;
  for (int device = 0; device < shape.devices; ++device)
    s.delays.push_back((2 * (shape.devices - 1 - device) + k - 1) / k);
  return s;
}

}  // namespace orrery
