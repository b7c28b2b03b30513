// The links of a cluster, and how transfers and collectives use them.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "backend/core/error.hpp"
#include "platforms/cluster.hpp"

namespace orrery {

namespace {

Inside inside_of(const NodeSpec& node) {
  return node.scale_up && node.scale_up->topology == "pcie" ? Inside::pcie : Inside::nvlink;
}

GpuGeneration generation_of(const std::string& link) {
  if (link == "nvlink2") return GpuGeneration::volta;
  if (link == "nvlink4" || link == "pcie5") return GpuGeneration::hopper;
  if (link == "nvlink5") return GpuGeneration::blackwell;
  return GpuGeneration::ampere;
}

}  // namespace

void Cluster::make_links() {
  for (std::size_t g = 0; g < places_.size(); ++g) {
    const Place& p = places_[g];
    const auto& link = platform_.parts[p.part].gpu.link.scale_up;
    const BytesPerSecond rate = link ? link->bandwidth_per_direction.value * link->achieved.value
                                     : BytesPerSecond(1);  // a node of one GPU: never used
    links_.push_back({fmt::format("gpu{}.scale_up.out", g), rate, LinkTier::scale_up});
    links_.push_back({fmt::format("gpu{}.scale_up.in", g), rate, LinkTier::scale_up});
  }
  int last = -1;
  for (const Place& p : places_) {
    if (p.node == last) continue;
    last = p.node;
    nic_base_.push_back(next_link(links_));
    if (const auto& nics = node_spec(p).nics) {
      const BytesPerSecond rate = nics->bandwidth.value * nics->achieved.value;
      for (int i = 0; i < nics->count.value; ++i)
        for (const char* way : {"out", "in"})
          links_.push_back({fmt::format("node{}.nic{}.{}", p.node, i, way), rate, LinkTier::nic});
    }
    const auto& scale_up = node_spec(p).scale_up;
    const bool sockets = scale_up && scale_up->numa.value > 1;
    numa_base_.push_back(sockets ? static_cast<std::int64_t>(next_link(links_)) : -1);
    if (!sockets) continue;
    for (int i = 0; i < scale_up->numa.value; ++i)
      for (const char* way : {"out", "in"})
        links_.push_back({fmt::format("node{}.socket{}.{}", p.node, i, way),
                          scale_up->numa_bandwidth->value, LinkTier::numa});
  }
}

// All nodes of the cluster take part: its switches are there, whoever uses them.
void Cluster::make_fabric() {
  if (places_.empty() || places_.back().node == 0) return;
  const std::vector<std::string> sites = platform_.sites();
  std::vector<Fabric::Node> nodes;
  std::size_t site = 0;
  for (std::size_t i = 0; i < platform_.parts.size(); ++i) {
    const Platform::Part& part = platform_.parts[i];
    while (platform_.cluster.parts[i].site.value_or("") != sites[site]) ++site;
    const auto& nics = part.node.nics;
    ORRERY_ASSERT(nics, "nodes of a cluster of several have NICs");
    nodes.insert(nodes.end(), static_cast<std::size_t>(part.count),
                 {static_cast<std::int32_t>(site), static_cast<std::int32_t>(nics->count.value),
                  nics->bandwidth.value * nics->achieved.value, nics->rail_optimised});
  }
  fabric_ =
      Fabric(platform_.cluster.fabric, platform_.cluster.wan, sites, std::move(nodes), links_);
}

void Cluster::scale_links(const std::vector<double>& factors) {
  ORRERY_ASSERT(factors.size() == links_.size(), "a factor for each link");
  for (std::size_t i = 0; i < links_.size(); ++i) {
    ORRERY_ASSERT(factors[i] > 0, "a link has some bandwidth");
    links_[i].bandwidth = links_[i].bandwidth * factors[i];
  }
  quality_ = factors;
  last_shape_ = {};
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

int Cluster::numa(const Place& p) const {
  const NodeSpec& n = node_spec(p);
  return static_cast<int>(p.local * n.scale_up->numa.value / n.gpus.count.value);
}

std::uint32_t Cluster::nic_link(const Place& p) const {
  return nic_base_[static_cast<std::size_t>(p.node)] + 2U * static_cast<std::uint32_t>(nic(p));
}

void Cluster::route(int from, int to, std::vector<std::uint32_t>& path) const {
  path.clear();
  if (from == to) return;
  const Place &a = place(from), &b = place(to);
  if (a.node != b.node) {
    path.push_back(nic_link(a));
    fabric_.route(port(a), port(b), path);
    path.push_back(nic_link(b) + 1U);
    return;
  }
  path.push_back(2U * static_cast<std::uint32_t>(from));
  const std::int64_t base = numa_base_[static_cast<std::size_t>(a.node)];
  if (base >= 0 && numa(a) != numa(b)) {
    path.push_back(static_cast<std::uint32_t>(base + 2 * numa(a)));
    path.push_back(static_cast<std::uint32_t>(base + 2 * numa(b) + 1));
  }
  path.push_back(2U * static_cast<std::uint32_t>(to) + 1U);
}

Seconds Cluster::network_latency(const Place& from, const Place& to) const {
  const NodeSpec& n = node_spec(from);
  ORRERY_ASSERT(n.nics, "a transfer between nodes without NICs");
  used(n.name, "nics.latency");
  used(platform_.cluster.name,
       platform_.cluster.fabric.network ? "fabric.file" : "fabric.hop_latency");
  return n.nics->latency.value + fabric_.latency(port(from), port(to));
}

Time Cluster::latency(int from, int to) const {
  if (from == to) return Time{};
  const Place &a = place(from), &b = place(to);
  const bool between = a.node != b.node;
  Seconds alpha = message_latency(inside_of(node_spec(a)), between,
                                  between ? network_latency(a, b) : Seconds{});
  if (between) alpha += wan_latency(a, b);
  return to_time(alpha);
}

Seconds Cluster::wan_latency(const Place& from, const Place& to) const {
  const Seconds latency = fabric_.wan_latency(from.node, to.node);
  if (latency.value > 0) used(platform_.cluster.name, "wan");
  return latency;
}

BytesPerSecond Cluster::bandwidth(int from, int to) const {
  const Place &a = place(from), &b = place(to);
  std::vector<std::uint32_t>& path = path_;
  route(from, to, path);
  BytesPerSecond rate(1e30);
  double worst = quality_.empty() ? 1 : HUGE_VAL;
  for (const std::uint32_t link : path) {
    rate = std::min(rate, links_[link].bandwidth);
    if (!quality_.empty()) worst = std::min(worst, quality_[link]);
  }
  if (a.node != b.node) {
    used(node_spec(a).name, "nics.bandwidth");
    used(node_spec(a).name, "nics.achieved");
    return rate;
  }
  const auto& link = gpu(from).link.scale_up;
  ORRERY_ASSERT(link, "a transfer inside a node without links");
  used(gpu(from).name, "link.scale_up.bandwidth_per_direction");
  used(gpu(from).name, "link.scale_up.transfer_achieved");
  const BytesPerSecond pair =
      link->bandwidth_per_direction.value * link->transfer_achieved.value * worst;
  return path.size() > 2 ? std::min(pair, rate) : pair;
}

// The members node by node, nodes in the order of their first members; begins[k] is where the k-th
// node's begin, and the last of `begins` their number.
std::vector<int> Cluster::by_node(const std::vector<int>& members,
                                  std::vector<std::size_t>& begins) const {
  std::vector<int> ordered = members;
  const auto node = [this](int m) { return place(m).node; };
  const auto earlier = [&](int a, int b) { return node(a) < node(b); };
  if (!std::is_sorted(members.begin(), members.end(), earlier)) {
    std::map<int, std::size_t> number;
    for (const int m : members) number.emplace(node(m), number.size());
    std::stable_sort(ordered.begin(), ordered.end(),
                     [&](int a, int b) { return number[node(a)] < number[node(b)]; });
  }
  begins.clear();
  for (std::size_t i = 0; i < ordered.size(); ++i)
    if (i == 0 || node(ordered[i]) != node(ordered[i - 1])) begins.push_back(i);
  begins.push_back(ordered.size());
  return ordered;
}

std::vector<std::vector<int>> Cluster::rings(const std::vector<int>& members) const {
  std::vector<std::size_t> begins;
  const std::vector<int> ordered = by_node(members, begins);
  const std::size_t nodes = begins.size() - 1;
  if (nodes < 2) return {members};
  // Of each node, where the members of each NIC in use begin.
  std::vector<std::size_t> entries, entries_of;
  std::size_t count = members.size();
  for (std::size_t k = 0; k < nodes; ++k) {
    entries_of.push_back(entries.size());
    if (node_spec(place(ordered[begins[k]])).nics)
      for (std::size_t i = begins[k]; i < begins[k + 1]; ++i)
        if (i == begins[k] || nic(place(ordered[i])) != nic(place(ordered[i - 1])))
          entries.push_back(i - begins[k]);
    count = std::min(count, entries.size() - entries_of.back());
  }
  std::vector<std::vector<int>> rings(count);
  for (std::size_t j = 0; j < count; ++j) {
    rings[j].reserve(members.size());
    for (std::size_t k = 0; k < nodes; ++k) {
      const int* const here = &ordered[begins[k]];
      const std::size_t entry = entries[entries_of[k] + j], size = begins[k + 1] - begins[k];
      for (std::size_t i = 0; i < size; ++i)
        rings[j].push_back(k % 2 == 0 ? here[(entry + i) % size]
                                      : here[(entry + 2 * size - 1 - i) % size]);
    }
  }
  return rings;
}

std::vector<std::vector<int>> Cluster::by_site(const std::vector<int>& members) const {
  std::vector<std::vector<int>> sites;
  std::map<int, std::size_t> number;
  for (const int m : members) {
    const auto [at, fresh] = number.emplace(site(m), sites.size());
    if (fresh) sites.emplace_back();
    sites[at->second].push_back(m);
  }
  return sites;
}

// Bandwidth inside the fullest node, as a ring uses it.
void Cluster::shape_inside(const std::vector<int>& members, GroupShape& g) const {
  std::map<std::pair<int, int>, int> sockets;  // members of each
  for (const int m : members) {
    const auto link = 2 * static_cast<std::size_t>(m);
    g.inside_bandwidth =
        std::min({g.inside_bandwidth, links_[link].bandwidth, links_[link + 1].bandwidth});
    const Place& p = place(m);
    if (numa_base_[static_cast<std::size_t>(p.node)] >= 0) ++sockets[{p.node, numa(p)}];
  }
  for (auto at = sockets.begin(); at != sockets.end(); ++at) {
    const auto [node, socket] = at->first;
    const bool alone = (at == sockets.begin() || std::prev(at)->first.first != node) &&
                       (std::next(at) == sockets.end() || std::next(at)->first.first != node);
    if (alone) continue;  // nothing crosses
    const auto base = static_cast<std::size_t>(numa_base_[static_cast<std::size_t>(node)]) +
                      2 * static_cast<std::size_t>(socket);
    g.inside_bandwidth =
        std::min({g.inside_bandwidth, links_[base].bandwidth, links_[base + 1].bandwidth});
  }
}

// What the links between the nodes give the group when nothing else uses them.
void Cluster::shape_network(Collective kind, const std::vector<int>& members, GroupShape& g) const {
  const std::vector<std::vector<int>> all = rings(members);
  LinkLoad& load = load_;
  load.reset(links_.size());  // bytes per byte that a node passes on
  std::vector<std::uint32_t> path;
  for (const std::vector<int>& ring : all)
    for (std::size_t i = 0; i < ring.size(); ++i) {
      const Place &a = place(ring[i]), &b = place(ring[(i + 1) % ring.size()]);
      if (a.node == b.node) continue;
      g.network_latency = std::max(g.network_latency, network_latency(a, b));
      g.wan_latency = std::max(g.wan_latency, wan_latency(a, b));
      route(ring[i], ring[(i + 1) % ring.size()], path);
      for (const std::uint32_t link : path) load.add(link, 1.0 / static_cast<double>(all.size()));
    }
  for (const std::uint32_t link : load.loaded())
    g.between_bandwidth = std::min(g.between_bandwidth, links_[link].bandwidth / load.of(link));
  if (kind != Collective::all_to_all) return;
  // Each to each, one byte. Large groups: 64 evenly spaced shifts stand for all.
  const std::size_t n = members.size(), shifts = std::min<std::size_t>(n - 1, n <= 256 ? n : 64);
  load.reset(links_.size());
  for (std::size_t s = 0; s < shifts; ++s)
    for (std::size_t i = 0; i < n; ++i) {
      const int from = members[i], to = members[(i + 1 + s * (n - 1) / shifts) % n];
      if (place(from).node == place(to).node) continue;
      route(from, to, path);
      for (const std::uint32_t link : path)
        load.add(link, static_cast<double>(n - 1) / static_cast<double>(shifts));
    }
  for (const std::uint32_t link : load.loaded())
    g.all_to_all_load = std::max(g.all_to_all_load, load.of(link) / links_[link].bandwidth.value);
}

const GroupShape& Cluster::shape(Collective kind, const std::vector<int>& members) const {
  const bool all_to_all = kind == Collective::all_to_all;
  if (last_shape_.members != members || last_shape_.all_to_all != all_to_all)
    last_shape_ = {members, all_to_all, make_shape(kind, members)};
  return last_shape_.shape;
}

GroupShape Cluster::make_shape(Collective kind, const std::vector<int>& members) const {
  struct InNode {
    int members = 0;
    const Place* place = nullptr;
  };
  std::map<int, InNode> nodes;
  GroupShape g;
  g.members = static_cast<int>(members.size());
  g.inside_bandwidth = g.between_bandwidth = g.nvls_bandwidth = BytesPerSecond(1e30);
  g.generation = GpuGeneration::blackwell;
  for (const int m : members) {
    InNode& n = nodes[place(m).node];
    n.place = &place(m);
    ++n.members;
  }
  g.nodes = static_cast<int>(nodes.size());
  for (const auto& [index, n] : nodes) {
    g.even = g.even && n.members == nodes.begin()->second.members;
    g.members_per_node = std::max(g.members_per_node, n.members);
    const auto& scale_up = platform_.parts[n.place->part].gpu.link.scale_up;
    g.inside = inside_of(node_spec(*n.place));
    g.generation = std::min(g.generation, generation_of(scale_up ? scale_up->kind : ""));
    const bool switched =
        scale_up && scale_up->nvls && node_spec(*n.place).scale_up->topology == "nvswitch";
    g.nvls_bandwidth = std::min(
        g.nvls_bandwidth, switched ? scale_up->bandwidth_per_direction.value * scale_up->nvls->value
                                   : BytesPerSecond(0));
    if (g.nodes == 1) {
      if (scale_up) g.ramp = scale_up->ramp.value;
    } else {
      g.ramp = std::max(g.ramp, node_spec(*n.place).nics->ramp.value);
    }
  }
  shape_inside(members, g);
  if (g.nvls_bandwidth.value > 0) g.nvls_bandwidth = g.nvls_bandwidth * quality_inside(members);
  if (g.nodes > 1) shape_network(kind, members, g);
  return g;
}

// Of the members' links inside their nodes, the worst: its bandwidth over what the files say.
double Cluster::quality_inside(const std::vector<int>& members) const {
  if (quality_.empty()) return 1;
  double worst = HUGE_VAL;
  for (const int m : members)
    for (const std::size_t link :
         {2 * static_cast<std::size_t>(m), 2 * static_cast<std::size_t>(m) + 1})
      worst = std::min(worst, quality_[link]);
  return worst;
}

// Of the links that the group's rings cross, the worst: its bandwidth over what the files say.
double Cluster::quality(const std::vector<int>& members) const {
  if (quality_.empty()) return 1;
  double worst = HUGE_VAL;
  std::vector<std::uint32_t> path;
  for (const std::vector<int>& ring : rings(members))
    for (std::size_t i = 0; i < ring.size(); ++i) {
      route(ring[i], ring[(i + 1) % ring.size()], path);
      for (const std::uint32_t link : path) worst = std::min(worst, quality_[link]);
    }
  return worst;
}

}  // namespace orrery
