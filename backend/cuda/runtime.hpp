// The CUDA runtime with errors as exceptions. Internal to this folder.
#pragma once

#include <cuda_runtime_api.h>

#include <mutex>
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

// Makes a GPU the calling thread's. try_gpu is for destructors: where CUDA refuses, what they
// destroy there fails quietly, too.
inline cudaError_t try_gpu(int gpu) noexcept {
  thread_local int mine = -1;
  if (mine == gpu) return cudaSuccess;
  const cudaError_t result = cudaSetDevice(gpu);
  if (result == cudaSuccess) mine = gpu;
  return result;
}
inline void use_gpu(int gpu) { check(try_gpu(gpu), "cudaSetDevice"); }

// Ends a stream that something may still be on: CUDA's own destroy returns at once and leaves that
// to run when what it uses may be gone.
inline void finish(cudaStream_t stream) {
  if (stream == nullptr) return;
  cudaStreamSynchronize(stream);  // of a GPU that has failed it fails at once
  cudaStreamDestroy(stream);
}

// Events with times, kept for the next operation: making one costs as much as a launch. From any
// thread.
class EventPool {
 public:
  EventPool() = default;
  ~EventPool() {
    for (cudaEvent_t event : free_) cudaEventDestroy(event);
  }
  EventPool(const EventPool&) = delete;
  EventPool& operator=(const EventPool&) = delete;
  cudaEvent_t take() {
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        cudaEvent_t event = free_.back();
        free_.pop_back();
        return event;
      }
    }
    cudaEvent_t fresh = nullptr;
    check(cudaEventCreateWithFlags(&fresh, cudaEventDefault), "cudaEventCreateWithFlags");
    return fresh;
  }
  void give_back(cudaEvent_t event) {
    const std::lock_guard lock(mutex_);
    free_.push_back(event);
  }

 private:
  std::mutex mutex_;
  std::vector<cudaEvent_t> free_;
};

// From one event to a later one, both done, in picoseconds.
inline Time between(cudaEvent_t from, cudaEvent_t to) {
  float ms = 0;
  check(cudaEventElapsedTime(&ms, from, to), "cudaEventElapsedTime");
  return Time(ms > 0 ? static_cast<std::uint64_t>(static_cast<double>(ms) * 1e9) : 0);
}

}  // namespace orrery::cuda
