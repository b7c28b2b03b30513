#include "backend/cuda/environment.hpp"

#include <algorithm>
#include <cstdlib>

namespace orrery::cuda {

void prepare_environment() {
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
  setenv("CUDA_MODULE_LOADING", "EAGER", 0);
}

int hardware_queues() {
  const char* set = std::getenv("CUDA_DEVICE_MAX_CONNECTIONS");
  if (set == nullptr) return 8;
  return static_cast<int>(std::clamp(std::strtol(set, nullptr, 10), 1L, 32L));
}

}  // namespace orrery::cuda
