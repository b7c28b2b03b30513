// The CUDA runtime with errors as exceptions. Internal to this folder.
#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <vector>

#include "backend/core/error.hpp"
#include "backend/core/units.hpp"

namespace orrery::cuda {

// Error{out_of_memory} or Error{unavailable} with the call's name and what CUDA says.
inline void check(cudaError_t result, const char* call) {
  if (result == cudaSuccess) return;
  throw Error(
      result == cudaErrorMemoryAllocation ? Category::out_of_memory : Category::unavailable,
      std::string(call) + ": " + cudaGetErrorName(result) + ": " + cudaGetErrorString(result));
}

// Makes a GPU the calling thread's.
inline void use_gpu(int gpu) {
  thread_local int mine = -1;
  if (mine == gpu) return;
  check(cudaSetDevice(gpu), "cudaSetDevice");
  mine = gpu;
}

// Events with times, kept for the next operation: making one costs as much as a launch.
class EventPool {
 public:
  EventPool() = default;
  ~EventPool() {
    for (cudaEvent_t event : free_) cudaEventDestroy(event);
  }
  EventPool(const EventPool&) = delete;
  EventPool& operator=(const EventPool&) = delete;
  cudaEvent_t take() {
    if (free_.empty()) {
      cudaEvent_t fresh = nullptr;
      check(cudaEventCreateWithFlags(&fresh, cudaEventDefault), "cudaEventCreateWithFlags");
      return fresh;
    }
    cudaEvent_t event = free_.back();
    free_.pop_back();
    return event;
  }
  void give_back(cudaEvent_t event) { free_.push_back(event); }

 private:
  std::vector<cudaEvent_t> free_;
};

// From one event to a later one, both done, in picoseconds.
inline Time between(cudaEvent_t from, cudaEvent_t to) {
  float ms = 0;
  check(cudaEventElapsedTime(&ms, from, to), "cudaEventElapsedTime");
  return Time(ms > 0 ? static_cast<std::uint64_t>(static_cast<double>(ms) * 1e9) : 0);
}

}  // namespace orrery::cuda
