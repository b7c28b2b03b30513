// The CUDA world as the commands use it: on this machine's GPUs, or what is missing for that.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/throttle.hpp"
#include "backend/world.hpp"
#include "calibration/gpu_platform.hpp"

namespace orrery::cuda {
class Processes;
}

namespace orrery::cli {

struct CudaSupport {
  std::string missing;  // what keeps `--world cuda` from running here; "" when nothing
  std::optional<std::string> driver;  // "13.0": the driver's CUDA
  std::optional<std::string> nccl;    // "2.28"
  std::optional<std::string> cudnn;   // "9.19"
  std::vector<std::string> gpus;      // "NVIDIA H200 (sm_90)"
};
CudaSupport cuda_support();

// Of the first GPU, all of this machine's being like it. Error{unavailable} with what is missing.
GpuFacts gpu_facts_here();

// What a run on GPUs measures besides.
struct CudaProfile {
  bool by_kernel = false;  // kernels of sequences one by one; by CUPTI too, where it can be had
  std::string missing;     // out: why not by CUPTI; "" when it is
  bool graphs = false;     // sequences that come again are graphs, whatever the environment says
};

// A world of one GPU per rank, with NCCL between them; where ranks are more than GPUs, or links are
// to be slowed, all ranks on the first GPU, as far as its hardware queues go. In one of several
// processes (else null), of its rank alone, on the GPU of its LOCAL_RANK; the processes outlive the
// world. Error{unavailable} with what is missing.
std::unique_ptr<World> make_cuda_world_here(WorldOptions options, std::optional<Throttle> throttle,
                                            CudaProfile& profile,
                                            cuda::Processes* processes = nullptr);

}  // namespace orrery::cli
