// A platform of GPUs made from measurements.
#pragma once

#include <optional>
#include <string>

#include "calibration/measurements.hpp"
#include "platforms/platform.hpp"

namespace orrery {

// What a GPU and its driver say of themselves.
struct GpuFacts {
  std::string device;  // "NVIDIA H100 80GB HBM3 (sm_90)"
  std::string driver;  // "CUDA 13.0, NCCL 2.28"
  std::string date;    // "2026-01-31", of the calibration
  int gpus = 1;        // of the machine, all alike
  std::int64_t multiprocessors = 1;
  Bytes memory;                     // of one
  std::optional<Watts> idle, peak;  // as drawn before measuring; the limit. Null: not told
  bool fp8 = false;                 // whether it multiplies in fp8
};

// One node of these GPUs: tables of kernels and collectives, host costs, and constants of the
// formulas for what no table covers: the fastest rates measured per type, the GEMM edge fitted to
// the bf16 products, attention as a share of the bf16 peak at the longest sequences. What a launch
// costs on the device is the time of the least kernel; what issuing costs is the host's.
// Error{internal} for measurements that lack GEMMs in bf16 and fp32, vectors, copies or host costs.
ClusterSpec gpu_platform_of(const Measurements& measurements, const GpuFacts& facts,
                            const std::string& name);

}  // namespace orrery
