// What communications keep of a cluster's GPUs, and kernels on what is left.
#include <algorithm>

#include "platforms/cluster.hpp"
#include "platforms/kernel_time.hpp"

namespace orrery {

namespace {

bool is_pair(Collective kind) {
  return kind == Collective::send || kind == Collective::receive || kind == Collective::exchange;
}
bool one_way(Collective kind) { return is_pair(kind) && kind != Collective::exchange; }
bool reduces(Collective kind) {
  return kind == Collective::all_reduce || kind == Collective::reduce_scatter;
}

// The GPU without what is taken: its peaks are those of the multiprocessors that are left.
GpuSpec left_of(GpuSpec gpu, const Taken& taken) {
  const std::int64_t all = gpu.compute.sm.value;
  const std::int64_t left = std::max<std::int64_t>(1, all - taken.multiprocessors);
  const double share = static_cast<double>(left) / static_cast<double>(all);
  gpu.compute.sm.value = left;
  PeakSpec& peak = gpu.compute.peak;
  for (auto* each :
       {&peak.fp64, &peak.fp32, &peak.tf32, &peak.bf16, &peak.fp16, &peak.fp8, &peak.fp4})
    if (*each) (*each)->value = (*each)->value * share;
  const double achieved = (gpu.memory.bandwidth.value * gpu.memory.achieved.value).value;
  const double fair = 1.0 / (1.0 + taken.transfers);
  gpu.memory.achieved.value *= std::max(fair, 1 - static_cast<double>(taken.memory) / achieved);
  return gpu;
}

}  // namespace

Taken Cluster::waiting(Collective kind, const std::vector<int>& members) const {
  const InterferenceSpec& spec = *platform_.stack.interference;
  used(platform_.stack.name, "interference");
  const InsideAndNetwork& its = is_pair(kind) ? spec.point_to_point : spec.collective;
  const bool inside = std::all_of(members.begin(), members.end(),
                                  [&](int m) { return node(m) == node(members.front()); });
  return {static_cast<std::int32_t>((inside ? its.inside : its.network).value), 0, 0};
}

Taken Cluster::transferring(Collective kind, Bytes volume, Time total) const {
  if (total == Time{} || volume.value == 0) return {};
  const InterferenceSpec& spec = *platform_.stack.interference;
  const double copied = spec.memory_copied.value;  // read here and written there, or one of them
  const double each = reduces(kind)   ? spec.memory_reduced.value
                      : one_way(kind) ? copied / 2
                                      : copied;
  const double rate = each * static_cast<double>(volume.value) / total.seconds().value;
  return {0, 1, static_cast<std::int64_t>(rate)};
}

Time Cluster::kernel_time_beside(const Kernel& kernel, const Cost& cost, int kind,
                                 const Taken& taken) const {
  const Time alone = kernel_time(kernel, cost, kind);
  if (kernel.op == Op::timed || (kernel.op == Op::custom && kernel.scalars[1] > 0)) return alone;
  const GpuSpec& gpu = kinds_.at(static_cast<std::size_t>(kind));
  const Time whole = to_time(orrery::kernel_time(kernel, cost, gpu, platform_.stack));
  const Time left =
      to_time(orrery::kernel_time(kernel, cost, left_of(gpu, taken), platform_.stack));
  if (alone == whole) return left;
  return to_time(alone.seconds() * (left.seconds() / whole.seconds()));  // a measured table's
}

}  // namespace orrery
