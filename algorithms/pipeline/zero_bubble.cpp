// The hand-made zero bubble schedules.
#include <algorithm>

#include "algorithms/pipeline/task_order.hpp"

namespace orrery {

namespace {

// 1F1B with `ahead(s)` forwards first and weight gradients that are up to `behind(s)` late.
template <class Ahead, class Behind>
PipelineSchedule late_weights(const char* name, const PipelineShape& shape, Ahead ahead,
                              Behind behind) {
  const int p = shape.devices, m = shape.micro_batches;
  PipelineSchedule s(name, shape, one_stage_each(p));
  for (int device = 0; device < p; ++device) {
    const int warm_up = std::min(ahead(device), m);
    TaskOrder order;
    for (int i = 0; i < warm_up; ++i) order.forward();
    for (int i = 0; i < m; ++i) {
      if (i < m - warm_up) order.forward();
      order.backward_input();
      if (order.due() > behind(device)) order.backward_weight();
    }
    while (order.due() > 0) order.backward_weight();
    s.tasks.push_back(order.take());
  }
  return s;
}

}  // namespace

PipelineSchedule zero_bubble_h1(const PipelineShape& shape) {
  return late_weights(
      "zb-h1", shape, [&](int s) { return shape.devices - 1 - s; }, [](int s) { return s; });
}

PipelineSchedule zero_bubble_h2(const PipelineShape& shape) {
  return late_weights(
      "zb-h2", shape, [&](int s) { return 2 * (shape.devices - 1 - s); },
      [](int s) { return 2 * s; });
}

}  // namespace orrery
