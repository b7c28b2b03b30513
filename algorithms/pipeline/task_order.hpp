// Writes the task list of one device: numbers the micro-batches of each chunk as work is added.
#pragma once

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "algorithms/pipeline/schedule.hpp"

namespace orrery {

class TaskOrder {
 public:
  static constexpr int any = -1;  // chunk
  // Chunk c's micro-batches are numbered from first[c] on.
  explicit TaskOrder(std::vector<int> first = {0})
      : next_forward_(first), next_backward_(std::move(first)) {}

  TaskOrder& forward(int chunk = 0) {
    return add({Work::forward, chunk, next_forward_[static_cast<std::size_t>(chunk)]++});
  }
  TaskOrder& backward(int chunk = 0) {
    return add({Work::backward, chunk, next_backward_[static_cast<std::size_t>(chunk)]++});
  }
  // Its weight gradient is due.
  TaskOrder& backward_input(int chunk = 0) {
    const int micro_batch = next_backward_[static_cast<std::size_t>(chunk)]++;
    due_.emplace_back(chunk, micro_batch);
    return add({Work::backward_input, chunk, micro_batch});
  }
  // The weight gradient that is due for longest, of all or of one chunk.
  TaskOrder& backward_weight(int chunk = any) {
    const auto oldest = find(chunk);
    add({Work::backward_weight, oldest->first, oldest->second});
    due_.erase(oldest);
    return *this;
  }
  // A forward of one chunk overlapped with a backward of another.
  TaskOrder& pair(int forward_chunk, int backward_chunk) {
    forward(forward_chunk);
    tasks_.back().paired = true;
    return backward(backward_chunk);
  }
  // Weight gradients that are.
  int due(int chunk = any) const {
    return static_cast<int>(std::count_if(due_.begin(), due_.end(), [chunk](const auto& d) {
      return chunk == any || d.first == chunk;
    }));
  }
  TaskList take() { return std::move(tasks_); }

 private:
  std::deque<std::pair<int, int>>::iterator find(int chunk) {
    return std::find_if(due_.begin(), due_.end(),
                        [chunk](const auto& d) { return chunk == any || d.first == chunk; });
  }
  TaskOrder& add(const PipelineTask& task) {
    tasks_.push_back(task);
    return *this;
  }
  std::vector<int> next_forward_, next_backward_;
  std::deque<std::pair<int, int>> due_;
  TaskList tasks_;
};

// Maps of chunks to devices.
std::vector<std::vector<Chunk>> one_stage_each(int devices);
std::vector<std::vector<Chunk>> round_robin(int devices, int chunks);  // r, r + p, r + 2 p, …
std::vector<std::vector<Chunk>> v_shape(int devices);                  // r and 2 p - 1 - r
std::vector<std::vector<Chunk>> both_directions(int devices);  // r of pipe 0, p - 1 - r of pipe 1

}  // namespace orrery
