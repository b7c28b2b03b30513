// A machine's real GPUs: what is there, what is missing, and a launcher for them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "backend/core/units.hpp"
#include "backend/cuda/launcher.hpp"

namespace orrery::cuda {

// GPUs that can be used; 0 also where there is no driver.
int gpu_count();
// Why there is none, or "" when there are: "no CUDA-capable device is detected".
std::string why_no_gpu();
std::string gpu_name(int gpu);  // with its compute capability
std::int64_t multiprocessors_of(int gpu);
Bytes memory_of(int gpu);
bool has_fp8(int gpu);  // from compute capability 8.9 on
// Versions "13.0" of the driver's CUDA, of NCCL and of cuDNN; "" where they are not found, or cuDNN
// is too old.
std::string driver_version();
std::string nccl_version();
std::string dnn_version();

// Kernels of this folder, cuBLASLt and cuDNN; the bodies, on copies in pinned memory, where there
// is no kernel; `copy` makes these. Memory pools keep what is freed.
std::unique_ptr<Launcher> make_gpu_launcher(int gpu, const KernelBodies& bodies,
                                            std::function<void(std::exception_ptr)> failed,
                                            Copy copy = copy_async);

}  // namespace orrery::cuda
