#include "algorithms/pipeline/task_order.hpp"

namespace orrery {

// As many forwards of the first chunk as keep a device busy until the second chunk's input is back
// from the turn at the last device; then both chunks in turn; at the end the weight gradients that
// would otherwise hold up a gradient on its way.
PipelineSchedule zero_bubble_v(const PipelineShape& shape) {
  const int p = shape.devices, m = shape.micro_batches;
  PipelineSchedule s("zb-v", shape, v_shape(p));
  for (int device = 0; device < p; ++device) {
    TaskOrder order({0, 0});
    int forwards = 0, turned = 0;  // of the first chunk and of the second
    const auto down = [&] { ++forwards, order.forward(0); };
    const auto up = [&] { ++turned, order.forward(1); };
    for (int i = 0; i < 2 * (p - device) - 1; ++i) down();
    for (int i = 0; i < device; ++i) up(), down();
    for (int i = 0; i < p - device; ++i) up(), order.backward_input(1).backward_weight();
    while (turned < forwards || forwards < m) {
      if (forwards < m) down();
      order.backward_input(0).backward_weight();
      up(), order.backward_input(1).backward_weight();
    }
    for (int i = 0; i < device; ++i) order.backward_input(0).backward_input(1);
    for (int i = 0; i < p - device; ++i) order.backward_input(0).backward_weight(0);
    for (const int chunk : {1, 0})
      while (order.due(chunk) > 0) order.backward_weight(chunk);
    s.tasks.push_back(order.take());
  }
  return s;
}

}  // namespace orrery
