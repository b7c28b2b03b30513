// Which kernel of a rank's program each kernel of the GPU belongs to, while a profiler measures.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "backend/cuda/profiler.hpp"
#include "backend/work_times.hpp"

namespace orrery::cuda {

// Of one rank's compute stream; by its program, one call at a time.
class Regions {
 public:
  Regions(Profiler* profiler, int rank) : profiler_(profiler), rank_(rank) {}

  // Runs `enqueue` as the item's, if there is a profiler.
  template <class Enqueue>
  void enter(const WorkItem& item, const Enqueue& enqueue) {
    if (profiler_ == nullptr) return enqueue();
    profiler_->enter(number_of(item));
    const Leave leave{*profiler_};
    enqueue();
  }
  // What is enqueued from here on belongs to the next step. How many have ended.
  std::int64_t step_ended();
  // Of activities of all ranks, those of this one's steps that count, by kernel and GPU function.
  std::vector<NativeRow> rows(std::span<const GpuActivity> activities) const;

 private:
  struct Leave {
    Profiler& profiler;
    ~Leave() { profiler.leave(); }
  };
  struct Region {
    WorkItem item;
    std::int64_t step = 0;
  };
  std::uint64_t number_of(const WorkItem& item);

  Profiler* const profiler_;
  const int rank_;
  std::int64_t steps_ = 0;
  std::vector<Region> regions_;
  std::unordered_map<WorkItem, std::size_t, WorkItemHash> of_step_;  // the step that is enqueued
};

}  // namespace orrery::cuda
