#include "algorithms/pipeline/task_order.hpp"

namespace orrery {

PipelineSchedule gpipe(const PipelineShape& shape) {
  TaskOrder order;
  for (int i = 0; i < shape.micro_batches; ++i) order.forward();
  for (int i = 0; i < shape.micro_batches; ++i) order.backward();
  PipelineSchedule s("gpipe", shape, one_stage_each(shape.devices));
  s.tasks.assign(static_cast<std::size_t>(shape.devices), order.take());
  return s;
}

}  // namespace orrery
