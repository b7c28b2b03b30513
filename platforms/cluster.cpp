#include "platforms/cluster.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "backend/core/error.hpp"
#include "platforms/kernel_time.hpp"

namespace orrery {

namespace {

Inside inside_of(const NodeSpec& node) {
  return node.scale_up && node.scale_up->topology == "pcie" ? Inside::pcie : Inside::nvlink;
}

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
  choose_tables();
}

void Cluster::make_links() {
  for (std::size_t g = 0; g < places_.size(); ++g) {
    const Place& p = places_[g];
    const auto& link = platform_.parts[p.part].gpu.link.scale_up;
    const BytesPerSecond rate = link ? link->bandwidth_per_direction.value * link->achieved.value
                                     : BytesPerSecond(1);  // a node of one GPU: never used
    links_.push_back({fmt::format("gpu{}.scale_up.out", g), rate});
    links_.push_back({fmt::format("gpu{}.scale_up.in", g), rate});
  }
  int last = -1;
  for (const Place& p : places_) {
    if (p.node == last) continue;
    last = p.node;
    nic_base_.push_back(static_cast<std::uint32_t>(links_.size()));
    const auto& nics = node_spec(p).nics;
    if (!nics) continue;
    const BytesPerSecond rate = nics->bandwidth.value * nics->achieved.value;
    for (int i = 0; i < nics->count.value; ++i) {
      links_.push_back({fmt::format("node{}.nic{}.out", p.node, i), rate});
      links_.push_back({fmt::format("node{}.nic{}.in", p.node, i), rate});
    }
  }
}

const Cluster::Place& Cluster::place(int gpu) const {
  ORRERY_ASSERT(gpu >= 0 && static_cast<std::size_t>(gpu) < places_.size(), "no such GPU");
  return places_[static_cast<std::size_t>(gpu)];
}

int Cluster::nic(const Place& p) const {
  const NodeSpec& n = node_spec(p);
  ORRERY_ASSERT(n.nics, "a transfer between nodes without NICs");
  return static_cast<int>(p.local * n.nics->count.value / n.gpus.count.value);
}

std::uint32_t Cluster::nic_link(const Place& p) const {
  return nic_base_[static_cast<std::size_t>(p.node)] + 2U * static_cast<std::uint32_t>(nic(p));
}

Bytes Cluster::device_memory(int g) const {
  used(gpu(g).name, "memory.capacity");
  return gpu(g).memory.capacity.value;
}

Time Cluster::kernel_time(const Kernel& kernel, const Cost& cost, int kind) const {
  const GpuSpec& spec = kinds_.at(static_cast<std::size_t>(kind));
  if (const auto measured = measured_time(kernel, kind)) return *measured;
  const bool stated = kernel.op == Op::timed || (kernel.op == Op::custom && kernel.scalars[1] > 0);
  if (!stated) {
    used(spec.name, "memory.bandwidth");
    used(spec.name, "memory.achieved");
    used(spec.name, "compute.gemm.launch");
  }
  if (kernel.op == Op::gemm || kernel.op == Op::implicit_gemm || kernel.op == Op::grouped_gemm) {
    for (const char* path : {"compute.gemm.efficiency", "compute.gemm.edge", "compute.sm"})
      used(spec.name, path);
    used(spec.name, peak_path(kernel.dtype));
  } else if (kernel.op == Op::attention || kernel.op == Op::attention_backward) {
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

Seconds Cluster::network_latency(const Place& p) const {
  const NodeSpec& n = node_spec(p);
  ORRERY_ASSERT(n.nics, "a transfer between nodes without NICs");
  used(n.name, "nics.latency");
  used(platform_.cluster.name, "fabric.hop_latency");
  // Up and down again through every level, except the top one, which is passed once.
  const auto hops = static_cast<double>(2 * platform_.cluster.fabric.levels.value - 1);
  return n.nics->latency.value + platform_.cluster.fabric.hop_latency.value * hops;
}

Time Cluster::latency(int from, int to) const {
  if (from == to) return Time{};
  const Place &a = place(from), &b = place(to);
  const bool between = a.node != b.node;
  return to_time(
      message_latency(inside_of(node_spec(a)), between, between ? network_latency(a) : Seconds{}));
}

BytesPerSecond Cluster::bandwidth(int from, int to) const {
  const Place &a = place(from), &b = place(to);
  if (a.node == b.node) {
    const auto& link = gpu(from).link.scale_up;
    ORRERY_ASSERT(link, "a transfer inside a node without links");
    used(gpu(from).name, "link.scale_up.bandwidth_per_direction");
    used(gpu(from).name, "link.scale_up.transfer_achieved");
    return link->bandwidth_per_direction.value * link->transfer_achieved.value;
  }
  used(node_spec(a).name, "nics.bandwidth");
  used(node_spec(a).name, "nics.achieved");
  return std::min(links_[nic_link(a)].bandwidth, links_[nic_link(b)].bandwidth);
}

GroupShape Cluster::shape(const std::vector<int>& members) const {
  struct InNode {
    int members = 0;
    std::vector<int> nics;
    const Place* place = nullptr;
  };
  std::map<int, InNode> nodes;
  GroupShape g;
  g.members = static_cast<int>(members.size());
  g.inside_bandwidth = g.between_bandwidth = BytesPerSecond(1e30);
  for (const int m : members) {
    const Place& p = place(m);
    InNode& n = nodes[p.node];
    n.place = &p;
    ++n.members;
    if (node_spec(p).nics && std::find(n.nics.begin(), n.nics.end(), nic(p)) == n.nics.end())
      n.nics.push_back(nic(p));
    g.inside_bandwidth =
        std::min(g.inside_bandwidth, links_[2 * static_cast<std::size_t>(m)].bandwidth);
  }
  g.nodes = static_cast<int>(nodes.size());
  for (const auto& [index, n] : nodes) {
    g.even = g.even && n.members == nodes.begin()->second.members;
    g.members_per_node = std::max(g.members_per_node, n.members);
    const auto& scale_up = platform_.parts[n.place->part].gpu.link.scale_up;
    const auto& nics = node_spec(*n.place).nics;
    g.inside = inside_of(node_spec(*n.place));
    if (g.nodes == 1) {
      if (scale_up) g.ramp = scale_up->ramp.value;
      continue;
    }
    const double ports = static_cast<double>(n.nics.size());
    g.between_bandwidth =
        std::min(g.between_bandwidth, nics->bandwidth.value * (nics->achieved.value * ports));
    g.ramp = std::max(g.ramp, nics->ramp.value);
    g.network_latency = std::max(g.network_latency, network_latency(*n.place));
  }
  return g;
}

CollectivePlan Cluster::plan(Collective kind, Bytes size, const std::vector<int>& members) const {
  if (members.size() <= 1) return collective_plan(kind, size, GroupShape{}, nullptr);
  if (const auto measured = measured_time(kind, size, members)) {
    CollectivePlan plan =
        ring_plan(kind, size, static_cast<int>(members.size()), Time{}, BytesPerSecond(1));
    plan.algorithm = "measured";
    plan.total = *measured;
    return plan;
  }
  GroupShape g = shape(members);
  const bool message =
      kind == Collective::send || kind == Collective::receive || kind == Collective::exchange;
  if (message) {
    const BytesPerSecond rate = bandwidth(members[0], members[1]);
    g.inside_bandwidth = g.between_bandwidth = rate;
    return collective_plan(kind, size, g, nullptr);
  }
  for (const CurveSpec& curve : platform_.curves)
    if (covers(curve, g, kind)) {
      used(curve.name, "");
      return collective_plan(kind, size, g, &curve);
    }
  const Place& first = place(members.front());
  if (g.members_per_node > 1) used(gpu(members.front()).name, "link.scale_up");
  if (g.nodes > 1) used(node_spec(first).name, "nics");
  return collective_plan(kind, size, g, nullptr);
}

void Cluster::route(int from, int to, std::vector<std::uint32_t>& path) const {
  path.clear();
  if (from == to) return;
  const Place &a = place(from), &b = place(to);
  if (a.node == b.node) {
    path.push_back(2U * static_cast<std::uint32_t>(from));
    path.push_back(2U * static_cast<std::uint32_t>(to) + 1U);
  } else {
    path.push_back(nic_link(a));
    path.push_back(nic_link(b) + 1U);
  }
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
