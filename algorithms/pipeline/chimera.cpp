#include <algorithm>

#include "algorithms/pipeline/task_order.hpp"

namespace orrery {

// The unit of p micro-batches is laid out in slots in which forward and backward are equally long:
// micro-batch i of either pipe is forward on stage s in slot s + 2 i and backward in slot
// p + 2 i + (p - 1 - s), so that a device never has two tasks in one slot, nor with units 2 p slots
// apart. Only the order in which a device computes is kept of the slots.
PipelineSchedule chimera(const PipelineShape& shape) {
  const int p = shape.devices, m = shape.micro_batches, half = p / 2;
  PipelineSchedule s("chimera", shape, both_directions(p));
  for (int device = 0; device < p; ++device) {
    std::vector<std::pair<int, PipelineTask>> slots;
    for (int unit = 0; unit < m / p; ++unit)
      for (int chunk = 0; chunk < 2; ++chunk)
        for (int i = 0; i < half; ++i) {
          const int stage = chunk == 0 ? device : p - 1 - device;
          const int micro_batch = chunk * (m / 2) + unit * half + i, begin = unit * 2 * p;
          slots.push_back({begin + stage + 2 * i, {Work::forward, chunk, micro_batch}});
          slots.push_back(
              {begin + p + 2 * i + (p - 1 - stage), {Work::backward, chunk, micro_batch}});
        }
    std::sort(slots.begin(), slots.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    TaskList tasks;
    for (const auto& [slot, task] : slots) tasks.push_back(task);
    s.tasks.push_back(std::move(tasks));
  }
  return s;
}

}  // namespace orrery
