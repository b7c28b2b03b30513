#include "scenarios/cli/cuda_world.hpp"

#include <cstdlib>
#include <string>

#include "backend/core/error.hpp"

#ifdef ORRERY_CUDA
#include "backend/cpu/bodies.hpp"
#include "backend/cuda/environment.hpp"
#include "backend/cuda/gpu/combine.hpp"
#include "backend/cuda/gpu/gpu.hpp"
#include "backend/cuda/gpu/power.hpp"
#include "backend/cuda/gpu/profile.hpp"
#include "backend/cuda/world.hpp"
#include "backend/transport/nccl.hpp"
#include "backend/transport/store.hpp"
#endif

namespace orrery::cli {

#ifdef ORRERY_CUDA

namespace {

// "" unless this is one of several processes, whose ranks nothing would join.
std::string one_of_several() {
  const char* processes = std::getenv("WORLD_SIZE");
  if (processes == nullptr || std::strtol(processes, nullptr, 10) < 2) return "";
  return std::string("this is one of ") + processes +
         " processes (WORLD_SIZE), which `--world cuda` does not join yet: start one, which runs a "
         "rank on each of its GPUs";
}

// Before anything runs on a GPU: CUPTI sees what comes after.
std::shared_ptr<cuda::Profiler> profiler_or(std::string& missing) {
  try {
    return cuda::make_cupti_profiler();
  } catch (const Error& error) {
    missing = error.what();
    return nullptr;
  }
}

}  // namespace

CudaSupport cuda_support() {
  cuda::prepare_environment();
  CudaSupport support;
  if (const std::string version = cuda::driver_version(); !version.empty())
    support.driver = version;
  if (const std::string version = cuda::nccl_version(); !version.empty()) support.nccl = version;
  if (const std::string version = cuda::dnn_version(); !version.empty()) support.cudnn = version;
  support.missing = one_of_several();
  if (support.missing.empty()) support.missing = cuda::why_no_gpu();
  for (int gpu = 0; gpu < cuda::gpu_count(); ++gpu) support.gpus.push_back(cuda::gpu_name(gpu));
  return support;
}

GpuFacts gpu_facts_here() {
  const CudaSupport support = cuda_support();
  if (!support.missing.empty())
    throw Error(Category::unavailable, "no GPU can be used: " + support.missing);
  GpuFacts facts;
  facts.device = support.gpus.front();
  facts.driver = "CUDA " + support.driver.value_or("unknown");
  if (support.nccl) facts.driver += ", NCCL " + *support.nccl;
  if (support.cudnn) facts.driver += ", cuDNN " + *support.cudnn;
  facts.gpus = static_cast<int>(support.gpus.size());
  facts.multiprocessors = cuda::multiprocessors_of(0);
  facts.memory = cuda::memory_of(0);
  if (const auto power = cuda::power_of(0)) {
    facts.idle = power->now;
    facts.peak = power->limit;
  }
  return facts;
}

std::unique_ptr<World> make_cuda_world_here(WorldOptions options, std::optional<Throttle> throttle,
                                            CudaProfile& profile) {
  if (const std::string missing = cuda_support().missing; !missing.empty())
    throw Error(Category::unavailable, "no GPU can be used: " + missing);
  const int gpus = cuda::gpu_count();
  const bool apart = options.grid.size() <= gpus && !throttle;
  cuda::CudaOptions cuda;
  cuda.by_kernel = profile.by_kernel;
  if (profile.by_kernel) cuda.profiler = profiler_or(profile.missing);
  cuda.gpu = [apart](int rank) { return apart ? rank : 0; };
  if (!apart) cuda.copy = cuda::copy_by_kernel;
  cuda.launcher = [copy = cuda.copy](int gpu, std::function<void(std::exception_ptr)> failed) {
    return cuda::make_gpu_launcher(gpu, cpu_bodies(), std::move(failed), copy);
  };
  if (apart)
    cuda.transport = [store = std::make_shared<transport::LocalStore>()](
                         int rank, transport::Waiting waiting) {
      return transport::make_nccl_transport(rank, *store, std::move(waiting));
    };
  else
    cuda.transport = [hub = std::make_shared<std::optional<cuda::LocalHub>>(), throttle](
                         int rank, transport::Waiting waiting) {
      if (!*hub) hub->emplace(cuda::gpu_local_work(), throttle);
      return (*hub)->transport_of(rank, std::move(waiting));
    };
  if (options.bodies == nullptr) options.bodies = &cpu_bodies();
  return cuda::make_cuda_world(std::move(options), std::move(cuda));
}

#else

CudaSupport cuda_support() {
  return {
      "this build has no CUDA world: CUDA's compiler, nccl.h or cudnn.h was not found, or CUDA "
      "was switched off, when it was made",
      {},
      {},
      {},
      {}};
}

GpuFacts gpu_facts_here() { throw Error(Category::unavailable, cuda_support().missing); }

std::unique_ptr<World> make_cuda_world_here(WorldOptions, std::optional<Throttle>, CudaProfile&) {
  throw Error(Category::unavailable,
              cuda_support().missing + "; `--world cpu` runs on the processor");
}

#endif

}  // namespace orrery::cli
