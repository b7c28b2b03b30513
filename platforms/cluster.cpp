#include "platforms/cluster.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "backend/core/error.hpp"
#include "platforms/kernel_time.hpp"

namespace orrery {

namespace {

bool is_attention(Op op) { return op == Op::attention || op == Op::attention_backward; }

// Dotted path of the peak that operands of this type use.
const char* peak_path(Dtype dtype) {
  switch (dtype) {
    case Dtype::fp64:
      return "compute.peak.fp64";
    case Dtype::bf16:
      return "compute.peak.bf16";
    case Dtype::fp16:
      return "compute.peak.fp16";
    case Dtype::fp8:
      return "compute.peak.fp8";
    case Dtype::fp4:
      return "compute.peak.fp4";
    default:
      return "compute.peak.fp32";
  }
}

}  // namespace

Cluster::Cluster(Platform platform, int wanted) : platform_(std::move(platform)) {
  const int available = platform_.gpus();
  if (wanted < 0 || wanted > available)
    throw Error(Category::config, fmt::format("{} GPUs asked for, but cluster {} has {}", wanted,
                                              platform_.cluster.name, available));
  const auto total = static_cast<std::size_t>(wanted == 0 ? available : wanted);
  std::map<std::string, std::uint16_t> kind_of;
  int node = 0;
  for (std::size_t part = 0; part < platform_.parts.size(); ++part) {
    const Platform::Part& p = platform_.parts[part];
    const auto [at, fresh] = kind_of.emplace(p.gpu.name, static_cast<std::uint16_t>(kinds_.size()));
    if (fresh) kinds_.push_back(p.gpu);
    for (int i = 0; i < p.count && places_.size() < total; ++i, ++node)
      for (int local = 0; local < p.node.gpus.count.value && places_.size() < total; ++local)
        places_.push_back({node, local, at->second, static_cast<std::uint16_t>(part)});
  }
  make_links();
  make_fabric();
  choose_tables();
}

Bytes Cluster::device_memory(int g) const {
  used(gpu(g).name, "memory.capacity");
  return gpu(g).memory.capacity.value;
}

Time Cluster::kernel_time(const Kernel& kernel, const Cost& cost, int kind) const {
  const GpuSpec& spec = kinds_.at(static_cast<std::size_t>(kind));
  if (const auto measured = measured_time(kernel, kind)) return *measured;
  if (kernel.op == Op::host_copy && spec.link.host) {
    used(spec.name, "link.host.bandwidth_per_direction");
    return to_time(orrery::kernel_time(kernel, cost, spec, platform_.stack));
  }
  const bool stated = kernel.op == Op::timed || (kernel.op == Op::custom && kernel.scalars[1] > 0);
  if (!stated) {
    used(spec.name, "memory.bandwidth");
    used(spec.name, "memory.achieved");
    used(spec.name, "compute.gemm.launch");
  }
  if (product_of(kernel)[0] > 0) {
    for (const char* path : {"compute.gemm.efficiency", "compute.gemm.edge", "compute.sm"})
      used(spec.name, path);
    used(spec.name, peak_path(kernel.dtype));
  } else if (is_attention(kernel.op) && platform_.stack.unfused_attention) {
    used(platform_.stack.name, "unfused_attention");
    used(spec.name, peak_path(kernel.dtype));
  } else if (is_attention(kernel.op)) {
    const AttentionSpec& row = attention_row(spec, platform_.stack.attention, kernel.dims[4]);
    static constexpr const char* rows[]{"compute.attention[0]", "compute.attention[1]",
                                        "compute.attention[2]", "compute.attention[3]",
                                        "compute.attention[4]", "compute.attention[5]"};
    const auto index = static_cast<std::size_t>(&row - spec.compute.attention.data());
    used(spec.name, index < std::size(rows) ? rows[index] : "compute.attention");
    used(spec.name, peak_path(kernel.dtype));
    if (row.head.value != kernel.dims[4]) note_head(spec, row, kernel.dims[4]);
  } else if (kernel.op == Op::cross_entropy || kernel.op == Op::row_maximum) {
    used(platform_.stack.name, "loss_bytes_per_logit");
  } else if (!stated) {
    used(platform_.stack.name, "elementwise");
  }
  return to_time(orrery::kernel_time(kernel, cost, spec, platform_.stack));
}

HostCosts Cluster::host(int) const {
  used(platform_.stack.name, "host");
  const HostSpec& h = platform_.stack.host;
  return {to_time(h.launch.value), to_time(h.communicate.value), to_time(h.wait.value),
          to_time(h.control_latency.value)};
}

FlopsPerSecond Cluster::peak(Dtype dtype) const {
  FlopsPerSecond sum;
  for (const Place& p : places_) {
    used(kinds_[p.kind].name, peak_path(dtype));
    sum += kinds_[p.kind].peak(dtype).value;
  }
  return sum;
}

void Cluster::note_head(const GpuSpec& spec, const AttentionSpec& row, std::int64_t head) const {
  const Assumption note{
      fmt::format("gpus/{}.yaml: compute.attention", spec.name),
      fmt::format("{}, head {}", row.kernel, row.head.value),
      fmt::format("there are no figures for head size {}; the nearest were used", head)};
  if (std::find(notes_.begin(), notes_.end(), note) == notes_.end()) notes_.push_back(note);
}

void Cluster::used(const std::string& file, const char* path) const {
  const Use use{&file, path};
  if (std::find(uses_.begin(), uses_.end(), use) == uses_.end()) uses_.push_back(use);
}

}  // namespace orrery
