#include <algorithm>

#include "algorithms/pipeline/task_order.hpp"

namespace orrery {

// A device's k-th forward: groups of p micro-batches go through its first chunk, then through the
// second, and so on. Backwards likewise, from the last chunk on.
PipelineSchedule interleaved(const PipelineShape& shape) {
  const int p = shape.devices, m = shape.micro_batches, v = shape.chunks;
  PipelineSchedule s("interleaved-1f1b", shape, round_robin(p, v));
  for (int device = 0; device < p; ++device) {
    const int warm_up = std::min(2 * (p - 1 - device) + (v - 1) * p, m * v);
    TaskOrder order(std::vector<int>(static_cast<std::size_t>(v), 0));
    const auto chunk = [p, v](int k) { return k / p % v; };
    for (int k = 0; k < warm_up; ++k) order.forward(chunk(k));
    for (int k = warm_up; k < m * v; ++k)
      order.forward(chunk(k)).backward(v - 1 - chunk(k - warm_up));
    for (int k = m * v - warm_up; k < m * v; ++k) order.backward(v - 1 - chunk(k));
    s.tasks.push_back(order.take());
  }
  return s;
}

}  // namespace orrery
