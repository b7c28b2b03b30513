#include "algorithms/pipeline/schedule.hpp"

#include "backend/core/error.hpp"

namespace orrery {

std::vector<PipelineTask> expand(const StageSchedule& schedule) {
  std::vector<PipelineTask> tasks;
  for (const Segment& segment : schedule)
    for (int r = 0; r < segment.repeats; ++r)
      for (PipelineTask task : segment.tasks) {
        task.micro_batch += r * segment.stride;
        tasks.push_back(task);
      }
  return tasks;
}

StageSchedule make_schedule(const std::string& name, int stage, int stages, int micro_batches) {
  if (name == "gpipe") return gpipe(stage, stages, micro_batches);
  if (name == "1f1b") return one_forward_one_backward(stage, stages, micro_batches);
  throw Error(Category::config,
              "unknown pipeline schedule '" + name + "'; there are gpipe and 1f1b");
}

}  // namespace orrery
