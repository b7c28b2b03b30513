#include "backend/cuda/gpu/power.hpp"

#include <cuda_runtime_api.h>

#include "backend/core/error.hpp"
#include "backend/cuda/gpu/libraries.hpp"

namespace orrery::cuda {

namespace {

// Of nvml.h, which CUDA's packages do not all bring: an opaque device; 0 is success; milliwatts.
using Device = struct nvmlDevice_st*;
using Start = int();
using Find = int(const char* bus, Device*);
using Ask = int(Device, unsigned* milliwatts);

std::optional<Power> ask(const Library& library, const char* bus) {
  const auto function = [&](const char* name) { return library.function(name); };
  Device device = nullptr;
  unsigned now = 0, limit = 0;
  const bool told =
      reinterpret_cast<Find*>(function("nvmlDeviceGetHandleByPciBusId_v2"))(bus, &device) == 0 &&
      reinterpret_cast<Ask*>(function("nvmlDeviceGetPowerUsage"))(device, &now) == 0 &&
      reinterpret_cast<Ask*>(function("nvmlDeviceGetEnforcedPowerLimit"))(device, &limit) == 0;
  if (!told) return std::nullopt;
  return Power{Watts(now * 1e-3), Watts(limit * 1e-3)};
}

}  // namespace

std::optional<Power> power_of(int gpu) {
  char bus[32] = {};
  if (cudaDeviceGetPCIBusId(bus, sizeof bus, gpu) != cudaSuccess) return std::nullopt;
  try {
    const Library library("libnvidia-ml.so.1");
    if (reinterpret_cast<Start*>(library.function("nvmlInit_v2"))() != 0) return std::nullopt;
    const std::optional<Power> power = ask(library, bus);
    reinterpret_cast<Start*>(library.function("nvmlShutdown"))();
    return power;
  } catch (const Error&) {  // no library, or an older one
    return std::nullopt;
  }
}

}  // namespace orrery::cuda
