#include "scenarios/cli/cuda_world.hpp"

#include "backend/core/error.hpp"

#ifdef ORRERY_CUDA
#include "backend/cpu/bodies.hpp"
#include "backend/cuda/gpu/combine.hpp"
#include "backend/cuda/gpu/gpu.hpp"
#include "backend/cuda/world.hpp"
#include "backend/transport/nccl.hpp"
#include "backend/transport/store.hpp"
#endif

namespace orrery::cli {

#ifdef ORRERY_CUDA

CudaSupport cuda_support() {
  CudaSupport support;
  if (const std::string version = cuda::driver_version(); !version.empty())
    support.driver = version;
  if (const std::string version = cuda::nccl_version(); !version.empty()) support.nccl = version;
  support.missing = cuda::why_no_gpu();
  for (int gpu = 0; gpu < cuda::gpu_count(); ++gpu) support.gpus.push_back(cuda::gpu_name(gpu));
  return support;
}

std::unique_ptr<World> make_cuda_world_here(WorldOptions options,
                                            std::optional<Throttle> throttle) {
  const int gpus = cuda::gpu_count();
  if (gpus == 0) throw Error(Category::unavailable, "no GPU can be used: " + cuda::why_no_gpu());
  const bool apart = options.grid.size() <= gpus && !throttle;
  cuda::CudaOptions cuda;
  cuda.gpu = [apart](int rank) { return apart ? rank : 0; };
  cuda.launcher = [](int gpu, std::function<void(std::exception_ptr)> failed) {
    return cuda::make_gpu_launcher(gpu, cpu_bodies(), std::move(failed));
  };
  if (apart)
    cuda.transport = [store = std::make_shared<transport::LocalStore>()](
                         int rank, transport::Waiting waiting) {
      return transport::make_nccl_transport(rank, *store, std::move(waiting));
    };
  else
    cuda.transport = [hub = std::make_shared<std::optional<cuda::LocalHub>>(), throttle](
                         int rank, transport::Waiting) {
      if (!*hub) hub->emplace(cuda::gpu_local_work(), throttle);
      return (*hub)->transport_of(rank);
    };
  if (options.bodies == nullptr) options.bodies = &cpu_bodies();
  return cuda::make_cuda_world(std::move(options), std::move(cuda));
}

#else

CudaSupport cuda_support() {
  return {"this build has no CUDA world: no CUDA compiler was found when it was made", {}, {}, {}};
}

std::unique_ptr<World> make_cuda_world_here(WorldOptions, std::optional<Throttle>) {
  throw Error(Category::unavailable,
              cuda_support().missing + "; `--world cpu` runs on the processor");
}

#endif

}  // namespace orrery::cli
