// How long a cluster's collectives take, and what they move.
#include <algorithm>
#include <cmath>

#include "backend/core/error.hpp"
#include "platforms/cluster.hpp"

namespace orrery {

CollectivePlan Cluster::plan(Collective kind, Bytes size, const std::vector<int>& members) const {
  if (members.size() <= 1) return collective_plan(kind, size, GroupShape{}, nullptr);
  if (const auto measured = measured_time(kind, size, members)) {
    CollectivePlan plan =
        ring_plan(kind, size, static_cast<int>(members.size()), Time{}, BytesPerSecond(1));
    plan.algorithm = "measured";
    plan.total = to_time(measured->seconds() / quality(members));
    return plan;
  }
  if (fabric_.sites() > 1 && kind != Collective::all_to_all) {
    const auto sites = by_site(members);
    if (sites.size() > 1) return plan_sites(kind, size, members, sites);
  }
  GroupShape g = shape(kind, members);
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
      if (quality_.empty()) return collective_plan(kind, size, g, &curve);
      CurveSpec now = curve;
      now.bandwidth.value = curve.bandwidth.value * quality(members);
      return collective_plan(kind, size, g, &now);
    }
  const Place& first = place(members.front());
  if (g.members_per_node > 1) used(gpu(members.front()).name, "link.scale_up");
  if (g.nodes > 1) used(node_spec(first).name, "nics");
  return collective_plan(kind, size, g, nullptr);
}

namespace {

bool is_message(Collective kind) {
  return kind == Collective::send || kind == Collective::receive || kind == Collective::exchange;
}

// Bytes that cross the border of each of `sites` sites, each way, in a collective on `size` bytes.
double crossing(Collective kind, Bytes size, double sites) {
  const double once = static_cast<double>(size.value) * (sites - 1) / sites;
  return kind == Collective::all_reduce  ? 2 * once
         : kind == Collective::broadcast ? static_cast<double>(size.value)
                                         : once;
}

}  // namespace

// Every member of a site passes an equal part of what crosses to its counterpart in the next.
std::vector<Flow> Cluster::site_flows(Bytes each,
                                      const std::vector<std::vector<int>>& sites) const {
  std::vector<Flow> flows;
  for (std::size_t s = 0; s < sites.size(); ++s) {
    const std::vector<int>&here = sites[s], &next = sites[(s + 1) % sites.size()];
    const Bytes part(each.value / static_cast<std::int64_t>(here.size()));
    for (std::size_t i = 0; i < here.size(); ++i)
      flows.push_back({here[i], next[i * next.size() / here.size()], part});
  }
  return flows;
}

CollectivePlan Cluster::plan_sites(Collective kind, Bytes size, const std::vector<int>& members,
                                   const std::vector<std::vector<int>>& sites) const {
  if (is_message(kind)) {
    const int from = members[0], to = members[1];
    return {"direct", 1, size, latency(from, to) + to_time(size / bandwidth(from, to))};
  }
  const auto k = static_cast<double>(sites.size());
  CollectivePlan plan{"hierarchical", static_cast<int>(sites.size()) - 1,
                      wire_bytes(kind, size, static_cast<int>(members.size())), Time{}};
  if (kind == Collective::all_reduce) plan.steps *= 2;
  Time inside;
  Time alpha;
  for (const std::vector<int>& site : sites) {
    Time here;
    if (kind == Collective::all_reduce || kind == Collective::reduce_scatter)
      here += this->plan(Collective::reduce_scatter, size, site).total;
    if (kind == Collective::all_reduce || kind == Collective::all_gather)
      here += this->plan(Collective::all_gather, size, site).total;
    if (kind == Collective::broadcast) here += this->plan(kind, size, site).total;
    inside = std::max(inside, here);
  }
  for (std::size_t s = 0; s < sites.size(); ++s)
    alpha = std::max(alpha, latency(sites[s].front(), sites[(s + 1) % sites.size()].front()));
  const auto each = Bytes(std::llround(crossing(kind, size, k)));
  const Seconds wan = transfer_time(*this, site_flows(each, sites));
  plan.total = inside + alpha * static_cast<std::uint64_t>(plan.steps) + to_time(wan);
  return plan;
}

std::vector<Flow> Cluster::flows(Collective kind, Bytes size,
                                 const std::vector<int>& members) const {
  if (fabric_.sites() < 2 || kind == Collective::all_to_all || is_message(kind))
    return Machine::flows(kind, size, members);
  const auto sites = by_site(members);
  if (sites.size() < 2) return Machine::flows(kind, size, members);
  std::vector<Flow> flows = site_flows(
      Bytes(std::llround(crossing(kind, size, static_cast<double>(sites.size())))), sites);
  for (const std::vector<int>& site : sites) {
    if (site.size() < 2) continue;
    const Bytes volume = wire_bytes(kind, size, static_cast<int>(site.size()));
    const std::vector<Flow> own = ring_flows(rings(site), volume);
    flows.insert(flows.end(), own.begin(), own.end());
  }
  return flows;
}

}  // namespace orrery
