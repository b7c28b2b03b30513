#include "platforms/collective_time.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "backend/core/error.hpp"

namespace orrery {

namespace {

enum Algorithm : std::size_t { ring, tree };
enum Protocol : std::size_t { ll, simple };
constexpr const char* plan_names[2][2]{{"ring LL", "ring"}, {"tree LL", "tree"}};

// NVIDIA/nccl src/graph/tuning.cc, baseLatencies and hwLatencies, in microseconds:
// [algorithm][protocol].
constexpr double base_latency[2][2]{{6.6, 8.4}, {6.8, 8.4}};
constexpr double nvlink_latency[2][2]{{0.6, 3.4}, {0.6, 4.0}};
constexpr double pcie_latency[2][2]{{1.0, 5.7}, {1.0, 4.0}};
constexpr double network_latency[2][2]{{2.7, 14.0}, {5.0, 14.0}};
// llMaxBws of Ampere in GB/s, for 1, 2 and more nodes. Later GPUs have higher caps; small messages
// are bound by latency.
constexpr std::array<double, 3> ll_cap{87.7, 22.5, 19.0};
// Simple rings over several nodes take longer than the sum of their hops (ncclTopoTuneModel,
// all-reduce from 64 bytes on).
constexpr double network_ring_factor = 1.4;

Seconds microseconds(double v) { return Seconds(v * 1e-6); }
double d(int v) { return static_cast<double>(v); }

// Bytes that each member sends over the bytes of the buffer.
double traffic(Collective kind, int n) {
  switch (kind) {
    case Collective::all_reduce:
      return 2.0 * d(n - 1) / d(n);
    case Collective::all_gather:
    case Collective::reduce_scatter:
    case Collective::all_to_all:
      return d(n - 1) / d(n);
    case Collective::broadcast:
      return 1.0;
    case Collective::send:
    case Collective::receive:
    case Collective::exchange:
      return 1.0;
  }
  return 1.0;
}

int ring_steps(Collective kind, int n) {
  return kind == Collective::all_reduce ? 2 * (n - 1) : n - 1;
}

Seconds hop_inside(const GroupShape& g, Algorithm a, Protocol p) {
  return microseconds((g.inside == Inside::nvlink ? nvlink_latency : pcie_latency)[a][p]);
}
Seconds hop_between(const GroupShape& g, Algorithm a, Protocol p) {
  return microseconds(network_latency[a][p]) + g.network_latency * (p == simple ? 2.0 : 1.0);
}

Seconds ring_latency(Collective kind, const GroupShape& g, Protocol p) {
  const int steps = ring_steps(kind, g.members);
  const int crossings = kind == Collective::all_reduce ? 2 * (g.nodes - 1) : g.nodes - 1;
  Seconds t = microseconds(base_latency[ring][p]) + hop_inside(g, ring, p) * d(steps - crossings) +
              hop_between(g, ring, p) * d(crossings);
  if (p == simple && g.nodes > 1 && kind == Collective::all_reduce) t = t * network_ring_factor;
  return t;
}

Seconds tree_latency(const GroupShape& g, Protocol p) {
  const double depth = std::floor(std::log2(d(g.nodes)));
  const Seconds half =
      hop_inside(g, tree, p) * d(g.members_per_node - 1) + hop_between(g, tree, p) * depth;
  return microseconds(base_latency[tree][p]) + half * 2.0;
}

// Seconds per byte of the buffer for very large messages.
double seconds_per_byte(Collective kind, const GroupShape& g, Algorithm a) {
  const double f = a == ring ? traffic(kind, g.members) : 2.0;
  double slowest = g.members_per_node > 1 ? f / g.inside_bandwidth.value : 0.0;
  if (g.nodes > 1) {
    const double crossing = a == ring ? f : g.nodes == 2 ? 1.0 : 2.0;
    slowest = std::max(slowest, crossing / g.between_bandwidth.value);
  }
  return slowest;
}

Seconds form_time(Collective kind, Bytes size, const GroupShape& g, Algorithm a, Protocol p) {
  const Seconds alpha = a == ring ? ring_latency(kind, g, p) : tree_latency(g, p);
  const double slope = seconds_per_byte(kind, g, a);
  const auto s = static_cast<double>(size.value);
  if (p == simple) return ramp_time(size, 1.0, alpha, BytesPerSecond(1.0 / slope), g.ramp);
  const double cap = ll_cap[static_cast<std::size_t>(std::min(g.nodes, 3) - 1)] * 1e9;
  const double f = a == ring ? traffic(kind, g.members) : 2.0;
  return alpha + Seconds(s * std::max(2.0 * slope, f / cap));
}

// Every member exchanges size/n with every other, one partner at a time.
Seconds all_to_all_time(Bytes size, const GroupShape& g) {
  const int local = g.members_per_node - 1, remote = g.members - g.members_per_node;
  const double share = static_cast<double>(size.value) / d(g.members);
  Seconds t = microseconds(base_latency[ring][simple]);
  if (local > 0)
    t += (hop_inside(g, ring, simple) + Seconds(share / g.inside_bandwidth.value)) * d(local);
  if (remote > 0) {
    const double rate = g.between_bandwidth.value / d(g.members_per_node);
    t += (hop_between(g, ring, simple) + Seconds(share / rate)) * d(remote);
  }
  return t;
}

CollectivePlan message_plan(Bytes size, const GroupShape& g) {
  const Seconds alpha = message_latency(g.inside, g.nodes > 1, g.network_latency);
  const BytesPerSecond rate = g.nodes > 1 ? g.between_bandwidth : g.inside_bandwidth;
  return {"direct", 1, size, to_time(alpha + size / rate)};
}

}  // namespace

Seconds ramp_time(Bytes size, double f, Seconds alpha, BytesPerSecond bandwidth, Bytes ramp) {
  const auto s = static_cast<double>(size.value), s0 = static_cast<double>(ramp.value);
  return alpha + Seconds(f * (s + std::sqrt(s0 * s)) / bandwidth.value);
}

bool covers(const CurveSpec& curve, const GroupShape& group, Collective kind) {
  return group.even && group.nodes == curve.nodes.value &&
         group.members_per_node == curve.gpus_per_node.value &&
         std::find(curve.operations.begin(), curve.operations.end(), name(kind)) !=
             curve.operations.end();
}

CollectivePlan collective_plan(Collective kind, Bytes size, const GroupShape& g,
                               const CurveSpec* curve) {
  if (g.members <= 1) return {"none", 0, Bytes(0), Time{}};
  if (kind == Collective::send || kind == Collective::receive || kind == Collective::exchange)
    return message_plan(size, g);
  const Bytes volume = wire_bytes(kind, size, g.members);
  const int steps = ring_steps(kind, g.members);
  if (kind == Collective::all_to_all)
    return {"pairwise", steps, volume, to_time(all_to_all_time(size, g))};
  if (curve != nullptr && covers(*curve, g, kind))
    return {"measured", steps, volume,
            to_time(ramp_time(size, traffic(kind, g.members), curve->alpha.value,
                              curve->bandwidth.value, curve->ramp.value))};
  CollectivePlan best;
  Seconds fastest(HUGE_VAL);
  for (const Algorithm a : {ring, tree}) {
    if (a == tree && kind != Collective::all_reduce) continue;
    for (const Protocol p : {ll, simple}) {
      const Seconds t = form_time(kind, size, g, a, p);
      if (t >= fastest) continue;
      fastest = t;
      best = {plan_names[a][p], steps, volume, to_time(t)};
    }
  }
  return best;
}

Seconds message_latency(Inside inside, bool between_nodes, Seconds latency) {
  GroupShape g;
  g.inside = inside;
  g.network_latency = latency;
  const Seconds hop = between_nodes ? hop_between(g, ring, simple) : hop_inside(g, ring, simple);
  return microseconds(base_latency[ring][simple]) + hop;
}

}  // namespace orrery
