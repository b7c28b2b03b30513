#include "platforms/fabric.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "backend/core/error.hpp"

namespace orrery {

namespace {

// A finaliser that changes every bit of its result with each bit of its argument (Steele, Lea and
// Flood 2014, "Fast Splittable Pseudorandom Number Generators", section 5).
std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

}  // namespace

BytesPerSecond tcp_rate(Seconds latency, double loss, std::int64_t connections) {
  constexpr double segment = 1460;
  return BytesPerSecond(static_cast<double>(connections) * segment / (2 * latency.value) *
                        std::sqrt(1.5 / loss));
}

Fabric::Fabric(const FabricSpec& spec, const std::optional<WanSpec>& wan,
               const std::vector<std::string>& sites, std::vector<Node> nodes,
               std::vector<LinkSpec>& links)
    : nodes_(std::move(nodes)),
      hop_(spec.hop_latency.value),
      minimal_(spec.routing == "minimal"),
      ecmp_(spec.routing == "ecmp") {
  for (std::size_t n = 0; n < nodes_.size(); ++n)
    if (n == 0 || nodes_[n].site != nodes_[n - 1].site)
      site_begin_.push_back(static_cast<std::int32_t>(n));
  if (spec.topology == "fat-tree") make_fat_tree(spec, links);
  if (spec.topology == "dragonfly" || spec.topology == "dragonfly+") make_dragonfly(spec, links);
  if (spec.topology == "torus") make_torus(spec, links);
  if (spec.topology == "simgrid") make_simgrid(spec, links);
  if (wan) make_wan(*wan, sites, links);
}

void Fabric::add_tier(std::int64_t nodes, bool by_rail, int switches) {
  Tier tier;
  tier.nodes = nodes;
  tier.switches = switches;
  if (by_rail)
    for (const Node& node : nodes_) tier.rails = std::max(tier.rails, node.nics);
  for (std::size_t s = 0; s < site_begin_.size(); ++s) {
    const std::int64_t end =
        s + 1 < site_begin_.size() ? site_begin_[s + 1] : static_cast<std::int64_t>(nodes_.size());
    const std::int64_t blocks = (end - site_begin_[s] + nodes - 1) / nodes;
    for (std::int64_t n = site_begin_[s]; n < end; ++n)
      tier.first.push_back(tier.units +
                           static_cast<std::int32_t>((n - site_begin_[s]) / nodes) * tier.rails);
    tier.units += static_cast<std::int32_t>(blocks * tier.rails);
  }
  tiers_.push_back(std::move(tier));
}

std::int32_t Fabric::unit(const Tier& tier, Port port) const {
  return tier.first[static_cast<std::size_t>(port.node)] + (tier.rails > 1 ? port.nic : 0);
}

void Fabric::link_tier(const char* name, LinkTier kind, double oversubscription,
                       BytesPerSecond rate, std::vector<LinkSpec>& links) {
  Tier& tier = tiers_.back();
  std::vector<double> below(static_cast<std::size_t>(tier.units), 0.0);
  double port_rate = 0;
  for (std::size_t n = 0; n < nodes_.size(); ++n)
    for (int nic = 0; nic < nodes_[n].nics; ++nic) {
      below[static_cast<std::size_t>(unit(tier, {static_cast<int>(n), nic}))] +=
          nodes_[n].bandwidth.value;
      port_rate = std::max(port_rate, nodes_[n].bandwidth.value);
    }
  const double most = below.empty() ? 0 : *std::max_element(below.begin(), below.end());
  tier.parallel =
      ecmp_ ? std::max(1, static_cast<int>(std::lround(most / oversubscription / port_rate))) : 1;
  tier.base = next_link(links);
  for (std::int32_t u = 0; u < tier.units; ++u) {
    const double sum =
        rate.value > 0 ? rate.value : below[static_cast<std::size_t>(u)] / oversubscription;
    const BytesPerSecond each(sum / tier.parallel);
    for (int k = 0; k < tier.parallel; ++k)
      for (const char* way : {"up", "down"})
        links.push_back({tier.parallel == 1 ? fmt::format("{}{}.{}", name, u, way)
                                            : fmt::format("{}{}.{}{}", name, u, way, k),
                         each, kind});
  }
}

void Fabric::make_fat_tree(const FabricSpec& spec, std::vector<LinkSpec>& links) {
  const bool rails =
      std::any_of(nodes_.begin(), nodes_.end(), [](const Node& n) { return n.rail_optimised; });
  const auto levels = static_cast<int>(spec.levels.value);
  top_switches_ = 2 * levels - 1;
  const bool pods = levels > 2 && spec.nodes_per_pod.has_value();
  const BytesPerSecond from_below(0);
  if (levels > 1 && spec.nodes_per_leaf) {
    const double share =
        levels > 2 ? spec.leaf_oversubscription.value : spec.oversubscription.value;
    add_tier(spec.nodes_per_leaf->value, rails, 1);
    if (ecmp_ || share > 1) link_tier("leaf", LinkTier::leaf, share, from_below, links);
  }
  if (pods) {
    add_tier(spec.nodes_per_pod->value, false, 3);
    if (ecmp_ || spec.oversubscription.value > 1)
      link_tier("pod", LinkTier::pod,
                spec.oversubscription.value * spec.leaf_oversubscription.value, from_below, links);
  }
}

void Fabric::make_dragonfly(const FabricSpec& spec, std::vector<LinkSpec>& links) {
  const bool plus = spec.topology == "dragonfly+";
  top_switches_ = 4;
  if (spec.nodes_per_leaf) {
    add_tier(spec.nodes_per_leaf->value, false, 1);
    if ((ecmp_ && plus) || spec.leaf_oversubscription.value > 1)
      link_tier("leaf", LinkTier::leaf, spec.leaf_oversubscription.value, BytesPerSecond(0), links);
  }
  add_tier(spec.nodes_per_group->value, false, plus ? 3 : 2);
  const BytesPerSecond pair =
      spec.link_bandwidth->value * static_cast<double>(spec.links_per_pair->value);
  const auto groups = static_cast<std::uint32_t>(tiers_.back().units);
  if (groups < 2) return;
  if (!minimal_ && !ecmp_)
    return link_tier("group", LinkTier::global, 1, pair * static_cast<double>(groups - 1), links);
  pair_base_ = next_link(links);
  pair_parallel_ = ecmp_ ? static_cast<std::uint32_t>(spec.links_per_pair->value) : 1;
  const BytesPerSecond each(pair.value / pair_parallel_);
  for (std::uint32_t a = 0; a < groups; ++a)
    for (std::uint32_t b = 0; b < groups; ++b)
      for (std::uint32_t k = 0; k < pair_parallel_; ++k)
        links.push_back(
            {ecmp_ ? fmt::format("group{}.to{}.{}", a, b, k) : fmt::format("group{}.to{}", a, b),
             each, LinkTier::global});
}

void Fabric::make_torus(const FabricSpec& spec, std::vector<LinkSpec>& links) {
  static constexpr const char* axes[]{"x", "y", "z", "u", "v", "w"};
  for (const auto& size : spec.dimensions) torus_.push_back(size.value);
  const std::int64_t places =
      std::accumulate(torus_.begin(), torus_.end(), std::int64_t{1}, std::multiplies<>());
  for (std::size_t s = 0; s < site_begin_.size(); ++s) {
    const std::int64_t end =
        s + 1 < site_begin_.size() ? site_begin_[s + 1] : static_cast<std::int64_t>(nodes_.size());
    if (end - site_begin_[s] > places)
      throw Error(Category::config, fmt::format("{} nodes do not fit a torus of {} places",
                                                end - site_begin_[s], places));
    torus_base_.push_back(next_link(links));
    for (std::int64_t place = 0; place < places; ++place)
      for (std::size_t d = 0; d < torus_.size(); ++d)
        for (const char* way : {"+", "-"})
          links.push_back({fmt::format("torus{}.{}{}{}", s, place, axes[d], way),
                           spec.link_bandwidth->value, LinkTier::torus});
  }
}

void Fabric::make_simgrid(const FabricSpec& spec, std::vector<LinkSpec>& links) {
  ORRERY_ASSERT(spec.network, "the reader of platforms has read the file");
  network_ = spec.network;
  host_of_node_ = spec.host_of_node;
  for (const SimgridNetwork::Link& link : network_->links()) {
    const bool binds = link.crossed && !link.fat_pipe;
    network_link_.push_back(binds ? static_cast<std::int64_t>(next_link(links)) : -1);
    if (binds) links.push_back({link.name, link.bandwidth, LinkTier::simgrid});
  }
}

void Fabric::make_wan(const WanSpec& wan, const std::vector<std::string>& sites,
                      std::vector<LinkSpec>& links) {
  if (wan.access) {
    access_base_ = next_link(links);
    for (const std::string& site : sites)
      for (const char* way : {"out", "in"})
        links.push_back({fmt::format("{}.{}", site, way), wan.access->value, LinkTier::wan});
  }
  for (const std::string& a : sites)
    for (const std::string& b : sites) {
      Seconds latency = wan.latency.value;
      double loss = wan.loss.value;
      std::int64_t connections = wan.connections.value;
      double rate = wan.bandwidth ? wan.bandwidth->value.value : HUGE_VAL;
      for (const WanPairSpec& pair : wan.pairs) {
        if (!std::is_permutation(pair.sites.begin(), pair.sites.end(),
                                 std::vector<std::string>{a, b}.begin()))
          continue;
        if (pair.latency) latency = pair.latency->value;
        if (pair.loss) loss = pair.loss->value;
        if (pair.connections) connections = pair.connections->value;
        if (pair.bandwidth) rate = pair.bandwidth->value.value;
      }
      if (loss > 0) rate = std::min(rate, tcp_rate(latency, loss, connections).value);
      wan_latency_.push_back(latency);
      const bool limited = a != b && std::isfinite(rate);
      wan_link_.push_back(limited ? static_cast<std::int64_t>(next_link(links)) : -1);
      if (limited)
        links.push_back({fmt::format("{}.to.{}", a, b), BytesPerSecond(rate), LinkTier::wan});
    }
}

std::size_t Fabric::meeting(Port from, Port to) const {
  if (site(from.node) != site(to.node)) return tiers_.size();
  std::size_t t = 0;
  while (t < tiers_.size() && unit(tiers_[t], from) != unit(tiers_[t], to)) ++t;
  return t;
}

void Fabric::climb(const Tier& tier, Port port, std::uint64_t hash, bool down,
                   std::vector<std::uint32_t>& path) const {
  if (tier.parallel == 0) return;
  const auto parallel = static_cast<std::uint32_t>(tier.parallel);
  const auto at = static_cast<std::uint32_t>(unit(tier, port)) * parallel +
                  static_cast<std::uint32_t>(hash % parallel);
  path.push_back(tier.base + 2 * at + (down ? 1U : 0U));
}

void Fabric::route(Port from, Port to, std::vector<std::uint32_t>& path) const {
  const int a = site(from.node), b = site(to.node);
  if (!torus_.empty() && a == b) {
    int hops = 0;
    return walk_torus(from, to, &path, hops);
  }
  if (network_) return way_in_network(from, to, path);
  const std::size_t top = meeting(from, to);
  const std::uint64_t hash =
      ecmp_ ? mix((static_cast<std::uint64_t>(from.node) << 40) ^
                  (static_cast<std::uint64_t>(to.node) << 16) ^
                  (static_cast<std::uint64_t>(from.nic) << 8) ^ static_cast<std::uint64_t>(to.nic))
            : 0;
  for (std::size_t t = 0; t < top; ++t) climb(tiers_[t], from, hash, false, path);
  if (a != b) {
    if (access_base_ >= 0) path.push_back(static_cast<std::uint32_t>(access_base_ + 2 * a));
    const std::int64_t pair = wan_link_[static_cast<std::size_t>(a * sites() + b)];
    if (pair >= 0) path.push_back(static_cast<std::uint32_t>(pair));
    if (access_base_ >= 0) path.push_back(static_cast<std::uint32_t>(access_base_ + 2 * b + 1));
  } else if (pair_parallel_ > 0 && top == tiers_.size()) {
    const Tier& groups = tiers_.back();
    const auto pair =
        static_cast<std::uint32_t>(unit(groups, from) * groups.units + unit(groups, to));
    path.push_back(pair_base_ + pair * pair_parallel_ +
                   static_cast<std::uint32_t>((hash >> 32) % pair_parallel_));
  }
  for (std::size_t t = top; t-- > 0;) climb(tiers_[t], to, hash, true, path);
}

void Fabric::way_in_network(Port from, Port to, std::vector<std::uint32_t>& path) const {
  std::vector<std::uint32_t> way;
  network_->route(host_of_node_[static_cast<std::size_t>(from.node)],
                  host_of_node_[static_cast<std::size_t>(to.node)], way);
  for (const std::uint32_t link : way)
    if (network_link_[link] >= 0) path.push_back(static_cast<std::uint32_t>(network_link_[link]));
}

void Fabric::walk_torus(Port from, Port to, std::vector<std::uint32_t>* path, int& hops) const {
  const std::uint32_t base = torus_base_[static_cast<std::size_t>(site(from.node))];
  const auto ways = static_cast<std::int64_t>(2 * torus_.size());
  std::int64_t at = index(from.node), target = index(to.node), stride = 1;
  for (std::size_t d = 0; d < torus_.size(); ++d) {
    const std::int64_t size = torus_[d], here = at / stride % size, there = target / stride % size;
    const std::int64_t ahead = (there - here + size) % size;
    const bool up = 2 * ahead <= size;
    for (std::int64_t left = up ? ahead : size - ahead; left > 0; --left, ++hops) {
      const auto way = static_cast<std::int64_t>(2 * d) + (up ? 0 : 1);
      if (path != nullptr) path->push_back(base + static_cast<std::uint32_t>(at * ways + way));
      const std::int64_t place = at / stride % size;
      at += (((place + (up ? 1 : size - 1)) % size) - place) * stride;
    }
    stride *= size;
  }
}

int Fabric::switches(Port from, Port to) const {
  if (!torus_.empty()) {
    int hops = 0;
    if (site(from.node) == site(to.node)) walk_torus(from, to, nullptr, hops);
    return hops + 1;
  }
  if (network_) return 0;
  const std::size_t top = meeting(from, to);
  return top < tiers_.size() ? tiers_[top].switches : top_switches_;
}

Seconds Fabric::latency(Port from, Port to) const {
  if (network_) {
    std::vector<std::uint32_t> way;
    network_->route(host_of_node_[static_cast<std::size_t>(from.node)],
                    host_of_node_[static_cast<std::size_t>(to.node)], way);
    Seconds sum;
    for (const std::uint32_t link : way) sum += network_->links()[link].latency;
    return sum;
  }
  return hop_ * static_cast<double>(switches(from, to));
}

Seconds Fabric::wan_latency(int from, int to) const {
  const int a = site(from), b = site(to);
  return a == b ? Seconds{} : wan_latency_[static_cast<std::size_t>(a * sites() + b)];
}

}  // namespace orrery
