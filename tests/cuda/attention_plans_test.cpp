// Plans that cuDNN makes for graphs of attention, for a GPU that is described and not there.
#include <dlfcn.h>
#include <doctest/doctest.h>

#include <optional>
#include <string_view>

#include "backend/core/error.hpp"
#include "backend/cuda/gpu/dnn_attention.hpp"

namespace orrery {
namespace {

using namespace cuda::dnn;

// An H100 SXM5 80GB, as cuDNN 9.19 describes it.
constexpr std::string_view h100 = R"({
  "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64],
  "regsPerBlock": 65536, "multiProcessorCount": 132, "warpSize": 32,
  "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448,
  "reservedSharedMemoryPerBlock": 1024, "maxRegistersPerSM": 65536, "maxCtasPerSM": 32,
  "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "pciDeviceId": 6, "isTccDriver": 0,
  "supportCoopLaunch": 1, "totalGlobalMem": 85017493504, "smClockRateKHz": 1980000,
  "memClockRateKHz": 2619000, "l2CacheSize": 52428800, "cudaDeviceId": 0, "deviceVer": 900,
  "driverVer": 13000, "deviceName": "NVIDIA H100 80GB HBM3"})";

std::optional<Functions> functions_here() {
#ifdef __SANITIZE_ADDRESS__
  MESSAGE("skipped: cuDNN does not free all that it allocates");
  return std::nullopt;
#endif
  // cuDNN looks for the driver by this name, and takes the one that is loaded.
  REQUIRE(dlopen(ORRERY_LIBRARY_DOUBLES "/libcuda.so.1", RTLD_NOW | RTLD_GLOBAL) != nullptr);
  try {
    return std::optional<Functions>(std::in_place);
  } catch (const Error& error) {
    MESSAGE("skipped: " << error.what());
    return std::nullopt;
  }
}

}  // namespace

TEST_CASE("cuDNN has plans for attention of grouped heads in one packed operand, both ways") {
  const auto functions = functions_here();
  if (!functions) return;
  Descriptor gpu(*functions, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  gpu.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
          static_cast<std::int64_t>(h100.size()), h100.data());
  gpu.finish();
  AttentionShape shape{.batch = 2, .heads = 8, .kv_heads = 2, .queries = 4096, .keys = 4096};
  shape.size = 128;
  shape.causal = true;
  shape.q_per_token = shape.kv_per_token = 12;
  const auto forward = plan_attention(*functions, shape, nullptr, &gpu);
  REQUIRE(forward != nullptr);
  const auto backward = plan_attention_backward(*functions, shape, nullptr, &gpu);
  REQUIRE(backward != nullptr);
  // The gradients of all heads' keys and values, before those of a group are added up; forward
  // nothing that grows with the shape.
  CHECK(forward->workspace_bytes() < 1024);
  const std::int64_t every_head = 2 * 2 * 8 * 4096 * 128;
  CHECK(backward->workspace_bytes() >= 2 * every_head);
  CHECK(backward->workspace_bytes() < 2 * every_head + 4096);
}

}  // namespace orrery
