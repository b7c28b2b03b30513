#include "scenarios/cli/cuda_world.hpp"

#include <cstdlib>
#include <string>
#include <string_view>

#include "backend/core/error.hpp"

#ifdef ORRERY_CUDA
#include "backend/cpu/bodies.hpp"
#include "backend/cuda/environment.hpp"
#include "backend/cuda/gpu/combine.hpp"
#include "backend/cuda/gpu/gpu.hpp"
#include "backend/cuda/gpu/power.hpp"
#include "backend/cuda/gpu/profile.hpp"
#include "backend/cuda/processes.hpp"
#include "backend/cuda/world.hpp"
#include "backend/transport/nccl.hpp"
#include "backend/transport/store.hpp"
#endif

namespace orrery::cli {

#ifdef ORRERY_CUDA

namespace {

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
  support.missing = cuda::why_no_gpu();
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
  facts.fp8 = cuda::has_fp8(0);
  if (const auto power = cuda::power_of(0)) {
    facts.idle = power->now;
    facts.peak = power->limit;
  }
  return facts;
}

namespace {

using Transports =
    std::function<std::unique_ptr<transport::Transport>(int rank, transport::Waiting waiting)>;

Transports by_nccl(const std::shared_ptr<transport::Store>& store) {
  return [store](int rank, transport::Waiting waiting) {
    return transport::make_nccl_transport(rank, *store, std::move(waiting));
  };
}

Transports on_one_gpu(std::optional<Throttle> throttle) {
  return [hub = std::make_shared<std::optional<cuda::LocalHub>>(), throttle](
             int rank, transport::Waiting waiting) {
    if (!*hub) hub->emplace(cuda::gpu_local_work(), throttle);
    return (*hub)->transport_of(rank, std::move(waiting));
  };
}

void refuse_several() {
  const auto bootstrap = transport::bootstrap_from_environment();
  if (!bootstrap || bootstrap->processes == 1) return;
  throw Error(Category::usage, "this is one of " + std::to_string(bootstrap->processes) +
                                   " processes (WORLD_SIZE), and only `orrery run` joins others: "
                                   "start one, which has a rank on each of its GPUs");
}

// This process's rank, on its own GPU: the one of that number, or the only one that it may see.
void join(cuda::CudaOptions& cuda, cuda::Processes& processes) {
  const int gpus = cuda::gpu_count(), wanted = processes.local_rank();
  if (wanted >= gpus && gpus > 1)
    throw Error(Category::unavailable, "LOCAL_RANK is " + std::to_string(wanted) +
                                           ", and there are " + std::to_string(gpus) + " GPUs");
  cuda.gpu = [gpu = gpus > 1 ? wanted : 0](int) { return gpu; };
  cuda.transport = by_nccl({std::shared_ptr<void>(), &processes.store()});
  cuda.first_rank = processes.rank();
  cuda.ranks_here = 1;
  cuda.peers = &processes;
}

}  // namespace

std::unique_ptr<World> make_cuda_world_here(WorldOptions options, std::optional<Throttle> throttle,
                                            CudaProfile& profile, cuda::Processes* processes) {
  if (processes == nullptr) refuse_several();
  if (const std::string missing = cuda_support().missing; !missing.empty())
    throw Error(Category::unavailable, "no GPU can be used: " + missing);
  const bool apart =
      processes != nullptr || (options.grid.size() <= cuda::gpu_count() && !throttle);
  cuda::CudaOptions cuda;
  cuda.by_kernel = profile.by_kernel;
  const char* graphs = std::getenv("ORRERY_CUDA_GRAPHS");
  const bool wanted = graphs != nullptr && std::string_view(graphs) == "1";
  cuda.graphs = apart && (profile.graphs || wanted);
  if (profile.by_kernel) cuda.profiler = profiler_or(profile.missing);
  cuda.gpu = [apart](int rank) { return apart ? rank : 0; };
  if (!apart) cuda.copy = cuda::copy_by_kernel;
  cuda.launcher = [copy = cuda.copy](int gpu, std::function<void(std::exception_ptr)> failed) {
    return cuda::make_gpu_launcher(gpu, cpu_bodies(), std::move(failed), copy);
  };
  if (processes != nullptr)
    join(cuda, *processes);
  else
    cuda.transport =
        apart ? by_nccl(std::make_shared<transport::LocalStore>()) : on_one_gpu(throttle);
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

std::unique_ptr<World> make_cuda_world_here(WorldOptions, std::optional<Throttle>, CudaProfile&,
                                            cuda::Processes*) {
  throw Error(Category::unavailable,
              cuda_support().missing + "; `--world cpu` runs on the processor");
}

#endif

}  // namespace orrery::cli
