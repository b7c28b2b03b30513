#include "calibration/gpu_platform.hpp"

#include <algorithm>
#include <cmath>
#include <map>

#include "backend/core/error.hpp"
#include "calibration/fitted_numbers.hpp"
#include "calibration/platform_file.hpp"

namespace orrery {

namespace {

constexpr const char* own_kernel = "orrery";  // of attention

FlopsPerSecond peak_of(const std::vector<KernelSamples>& samples, Dtype dtype) {
  return FlopsPerSecond(std::round(fastest_product(samples, dtype)));
}

// The rate of large copies in the slower direction.
BytesPerSecond host_link(const std::vector<CopySamples>& copies) {
  std::map<bool, double> best;
  for (const CopySamples& copy : copies)
    best[copy.to_device] =
        std::max(best[copy.to_device], static_cast<double>(copy.size.value) / median(copy.seconds));
  if (best.size() < 2)
    throw Error(Category::internal, "a calibration without copies makes no platform");
  return BytesPerSecond(std::round(std::min(best[false], best[true])));
}

// Of the samples of a class and head size, the one with the longest sequence.
const KernelSamples* longest(const std::vector<KernelSamples>& samples, const std::string& kernels,
                             double head) {
  const KernelSamples* found = nullptr;
  for (const KernelSamples& s : samples)
    if (s.kernels == kernels && s.at[1] == head && !s.held_back &&
        (found == nullptr || s.at[0] > found->at[0]))
      found = &s;
  return found;
}

// A share of the peak, on the FLOPs of a causal kernel: 2 s^2 d forward, 2.5 times that backward.
std::vector<AttentionSpec> attention_of(const std::vector<KernelSamples>& samples,
                                        FlopsPerSecond peak) {
  std::vector<AttentionSpec> rows;
  for (const KernelSamples& s : samples) {
    if (s.kernels != "attention causal bf16" || s.held_back) continue;
    const bool again = std::any_of(rows.begin(), rows.end(), [&](const AttentionSpec& row) {
      return static_cast<double>(row.head.value) == s.at[1];
    });
    if (again) continue;
    const auto share = [&](const std::string& kernels, double factor) {
      const KernelSamples* sample = longest(samples, kernels, s.at[1]);
      if (sample == nullptr)
        throw Error(Category::internal, "attention was measured in one direction only");
      const double flops = factor * 2 * sample->at[0] * sample->at[0] * sample->at[1];
      return std::min(1.0, flops / median(sample->seconds) / peak.value);
    };
    AttentionSpec& row = rows.emplace_back();
    row.kernel = own_kernel;
    row.head.value = static_cast<std::int64_t>(s.at[1]);
    row.forward.value = share("attention causal bf16", 1);
    row.backward.value = share("attention_backward causal bf16", 2.5);
  }
  return rows;
}

std::vector<KernelSamples> products_of(const std::vector<KernelSamples>& samples) {
  std::vector<KernelSamples> products;
  for (const KernelSamples& s : samples)
    if (s.kernels.starts_with("gemm") && s.kernels.ends_with(" bf16")) products.push_back(s);
  return products;
}

}  // namespace

ClusterSpec gpu_platform_of(const Measurements& measurements, const GpuFacts& facts,
                            const std::string& name) {
  const auto& samples = measurements.kernels;
  const BytesPerSecond bandwidth(std::round(fastest_stream(samples)));
  const FlopsPerSecond bf16 = peak_of(samples, Dtype::bf16), fp16 = peak_of(samples, Dtype::fp16),
                       fp32 = peak_of(samples, Dtype::fp32), fp8 = peak_of(samples, Dtype::fp8);
  if (!(bf16.value > 0) || !(fp32.value > 0) || !(bandwidth.value > 0))
    throw Error(Category::internal, "a calibration without GEMMs and vectors makes no platform");
  GpuSpec gpu;
  gpu.name = name + "-gpu";
  gpu.memory.capacity.value = facts.memory;
  gpu.memory.bandwidth.value = bandwidth;
  gpu.memory.achieved = assumed(1.0, "the bandwidth is what a kernel reached");
  gpu.compute.sm.value = facts.multiprocessors;
  gpu.compute.peak.bf16.emplace(bf16);
  gpu.compute.peak.fp32.emplace(fp32);
  if (fp16.value > 0) gpu.compute.peak.fp16.emplace(fp16);
  if (fp8.value > 0) gpu.compute.peak.fp8.emplace(fp8);
  gpu.compute.gemm.efficiency.bf16 = assumed(1.0, "the peak is what a GEMM reached");
  gpu.compute.gemm.launch.value = typical(measurements.least.kernel);
  gpu.compute.gemm.edge =
      fitted_edge(products_of(samples),
                  {bf16, 1, 0, facts.multiprocessors, gpu.compute.gemm.launch.value, bandwidth},
                  "the bf16 GEMMs of this file");
  gpu.compute.attention = attention_of(samples, bf16);
  gpu.link.host.emplace();
  gpu.link.host->kind = "measured";
  gpu.link.host->bandwidth_per_direction.value = host_link(measurements.copies);
  if (facts.idle && facts.peak) {
    gpu.power.emplace();
    gpu.power->idle.value = *facts.idle;
    gpu.power->peak.value = *facts.peak;
  }
  gpu.measured = kernel_tables(samples);
  return platform_around(std::move(gpu), facts.gpus, {"measured", own_kernel}, measurements, name);
}

}  // namespace orrery
