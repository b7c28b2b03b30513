#include "platforms/collective_time.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/core/error.hpp"
#include "backend/core/real.hpp"
#include "platforms/nccl_tuning.hpp"

namespace orrery {

namespace {

// NCCL's Simple protocol (baseLatencies and hwLatencies): of every message, inside a node by what
// joins its GPUs, and between nodes.
constexpr double message_base = 8.4, message_inside[2]{3.4, 5.7}, message_between = 14;
// Simple rings over several nodes take longer than the sum of their hops (ncclTopoTuneModel,
// all-reduce from 64 bytes on).
constexpr double network_ring_factor = 1.4;
constexpr double ll128_share = 0.92, pat_share = 0.75;

Seconds microseconds(double v) { return Seconds(v * 1e-6); }
// Bytes that each member sends over the bytes of the buffer.
double traffic(Collective kind, int n) {
  switch (kind) {
    case Collective::all_reduce:
      return 2.0 * real(n - 1) / real(n);
    case Collective::all_gather:
    case Collective::reduce_scatter:
    case Collective::all_to_all:
      return real(n - 1) / real(n);
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

Seconds hop_inside(const GroupShape& g) {
  return microseconds(message_inside[g.inside == Inside::nvlink ? 0 : 1]);
}
Seconds hop_between(const GroupShape& g) {
  return microseconds(message_between) + g.network_latency * 2;
}

// Seconds per byte of the buffer for very large messages.
double seconds_per_byte(Collective kind, const GroupShape& g, NcclAlgorithm a) {
  const double f = traffic(kind, g.members);
  const double crossing = g.nodes == 2 ? 1.0 : 2.0;  // of a tree
  const double inside = g.inside_bandwidth.value, between = g.between_bandwidth.value;
  const bool several = g.members_per_node > 1;
  const double switched =
      several ? (1 + 1 / real(g.members_per_node)) / g.nvls_bandwidth.value : 0.0;
  switch (a) {
    case NcclAlgorithm::ring:
      return std::max(several ? f / inside : 0.0, g.nodes > 1 ? f / between : 0.0);
    case NcclAlgorithm::tree:
      return std::max(several ? 2 / inside : 0.0, g.nodes > 1 ? crossing / between : 0.0);
    case NcclAlgorithm::nvls:
      return switched;
    case NcclAlgorithm::nvls_tree:
      return std::max(switched, crossing / between);
    case NcclAlgorithm::pat:
      return f / between / pat_share;
  }
  return 0;
}

// A form of a collective: alpha + slope S, and the ramp's part unless its protocol is LL.
struct Form {
  NcclAlgorithm algorithm = NcclAlgorithm::ring;
  NcclProtocol protocol = NcclProtocol::simple;
  Seconds alpha;
  double slope = 0;
};

std::vector<Form> forms_of(Collective kind, const GroupShape& g) {
  std::vector<Form> forms;
  for (const NcclAlgorithm a : nccl_algorithms)
    for (const NcclProtocol p : nccl_protocols) {
      const std::optional<Seconds> latency = nccl_latency(kind, g, a, p);
      if (!latency) continue;
      Form form{a, p, *latency, seconds_per_byte(kind, g, a)};
      const bool ring = a == NcclAlgorithm::ring;
      if (ring && p == NcclProtocol::simple && g.nodes > 1 && kind == Collective::all_reduce)
        form.alpha = form.alpha * network_ring_factor;
      if (p == NcclProtocol::ll) {
        const double f = ring ? traffic(kind, g.members) : 2.0;
        form.slope = std::max(2 * form.slope, f / ll_limit(g.generation, g.nodes).value);
      }
      if (p == NcclProtocol::ll128) form.slope /= ll128_share;
      forms.push_back(form);
    }
  return forms;
}

// The one that NCCL's tuner takes: the least alpha + slope S. Its ramp is that of the form which is
// best for very large messages, so that times grow with size where the choice changes.
CollectivePlan nccl_plan(Collective kind, Bytes size, const GroupShape& g) {
  const std::vector<Form> forms = forms_of(kind, g);
  const auto s = static_cast<double>(size.value);
  const auto time = [s](const Form& form) { return form.alpha.value + form.slope * s; };
  const Form& best = *std::min_element(
      forms.begin(), forms.end(),
      [&](const Form& one, const Form& other) { return time(one) < time(other); });
  double slope = HUGE_VAL;
  for (const Form& form : forms) slope = std::min(slope, form.slope);
  Seconds total(time(best));
  if (best.protocol != NcclProtocol::ll)
    total += Seconds(slope * std::sqrt(s * static_cast<double>(g.ramp.value)));
  return {name(best.algorithm, best.protocol), ring_steps(kind, g.members),
          wire_bytes(kind, size, g.members), to_time(total)};
}

// Every member exchanges size/n with every other, one partner at a time.
Seconds all_to_all_time(Bytes size, const GroupShape& g) {
  const int local = g.members_per_node - 1, remote = g.members - g.members_per_node;
  const double share = static_cast<double>(size.value) / real(g.members);
  Seconds t = microseconds(message_base);
  if (local > 0) t += (hop_inside(g) + Seconds(share / g.inside_bandwidth.value)) * real(local);
  t += g.wan_latency;  // messages to all sites are under way at once
  if (remote > 0) {
    const double ports = real(remote) * real(g.members_per_node) / g.between_bandwidth.value;
    t += hop_between(g) * real(remote) +
         Seconds(share * (g.all_to_all_load > 0 ? g.all_to_all_load : ports));
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
  return nccl_plan(kind, size, g);
}

Seconds message_latency(Inside inside, bool between_nodes, Seconds latency) {
  GroupShape g;
  g.inside = inside;
  g.network_latency = latency;
  const Seconds hop = between_nodes ? hop_between(g) : hop_inside(g);
  return microseconds(message_base) + hop;
}

}  // namespace orrery
