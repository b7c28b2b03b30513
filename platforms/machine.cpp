#include "platforms/machine.hpp"

#include <algorithm>
#include <map>
#include <utility>

#include "backend/core/error.hpp"

namespace orrery {

namespace {

std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

}  // namespace

const char* name(LinkTier tier) {
  static constexpr const char* names[link_tier_count]{"scale-up", "numa",  "nic", "leaf",   "pod",
                                                      "global",   "torus", "wan", "simgrid"};
  return names[static_cast<std::size_t>(tier)];
}

std::vector<Flow> ring_flows(const std::vector<std::vector<int>>& rings, Bytes volume) {
  if (rings.size() == 1) {  // the usual case: nothing to gather
    std::vector<Flow> flows;
    const std::vector<int>& ring = rings.front();
    for (std::size_t i = 0; i < ring.size(); ++i)
      flows.push_back({ring[i], ring[(i + 1) % ring.size()], volume});
    return flows;
  }
  std::map<std::pair<int, int>, std::int64_t> edges;  // in how many rings
  for (const std::vector<int>& ring : rings)
    for (std::size_t i = 0; i < ring.size(); ++i) ++edges[{ring[i], ring[(i + 1) % ring.size()]}];
  std::vector<Flow> flows;
  const auto count = static_cast<std::int64_t>(rings.size());
  for (const auto& [edge, times] : edges)
    flows.push_back({edge.first, edge.second, Bytes(volume.value / count * times)});
  return flows;
}

std::vector<Flow> Machine::flows(Collective kind, Bytes size,
                                 const std::vector<int>& members) const {
  const auto n = static_cast<std::int64_t>(members.size());
  if (n < 2) return {};
  // Beyond this, an all_to_all is taken to load links as evenly as shifts by half the group do.
  constexpr std::int64_t most_pairs = 64 * 63;
  if (kind != Collective::all_to_all || n * (n - 1) > most_pairs) {
    const Bytes volume = plan(kind, size, members).volume;
    if (kind != Collective::all_to_all) return ring_flows(rings(members), volume);
    std::vector<Flow> flows;
    for (std::int64_t i = 0; i < n; ++i)
      flows.push_back({members[static_cast<std::size_t>(i)],
                       members[static_cast<std::size_t>((i + n / 2) % n)], volume});
    return flows;
  }
  std::vector<Flow> flows;
  for (const int from : members)
    for (const int to : members)
      if (from != to) flows.push_back({from, to, Bytes(divide_up(size.value, n))});
  return flows;
}

Seconds transfer_time(const Machine& machine, const std::vector<Flow>& flows) {
  std::vector<std::pair<std::uint32_t, std::int64_t>> bytes;  // on links
  std::vector<std::uint32_t> path;
  for (const Flow& flow : flows) {
    path.clear();
    machine.route(flow.from, flow.to, path);
    for (const std::uint32_t link : path) bytes.emplace_back(link, flow.size.value);
  }
  std::sort(bytes.begin(), bytes.end());
  Seconds longest;
  for (std::size_t i = 0; i < bytes.size();) {
    const std::uint32_t link = bytes[i].first;
    Bytes sum(0);
    for (; i < bytes.size() && bytes[i].first == link; ++i) sum += Bytes(bytes[i].second);
    longest = std::max(longest, sum / machine.links()[link].bandwidth);
  }
  return longest;
}

UniformMachine::UniformMachine(UniformSpec spec) : spec_(std::move(spec)) {
  ORRERY_ASSERT(spec_.gpus > 0 && spec_.bandwidth.value > 0, "a machine has GPUs and bandwidth");
  links_.reserve(static_cast<std::size_t>(spec_.gpus) * 2);
  for (int gpu = 0; gpu < spec_.gpus; ++gpu) {
    links_.push_back({"gpu" + std::to_string(gpu) + ".out", spec_.bandwidth});
    links_.push_back({"gpu" + std::to_string(gpu) + ".in", spec_.bandwidth});
  }
}

Time UniformMachine::kernel_time(const Kernel& kernel, const Cost& cost, int) const {
  // A program's own operation may state its time; see Kernel::custom and Kernel::timed.
  const bool states_time = kernel.op == Op::timed || kernel.op == Op::custom;
  if (states_time && (kernel.scalars[1] > 0 || !spec_.kernel_time))
    return to_time(Seconds(kernel.scalars[1]));
  return spec_.kernel_time ? spec_.kernel_time(kernel, cost) : Time{};
}

CollectivePlan UniformMachine::plan(Collective kind, Bytes size,
                                    const std::vector<int>& members) const {
  return ring_plan(kind, size, static_cast<int>(members.size()), spec_.alpha, spec_.bandwidth);
}

void UniformMachine::route(int from, int to, std::vector<std::uint32_t>& path) const {
  path.push_back(static_cast<std::uint32_t>(from) * 2);
  path.push_back(static_cast<std::uint32_t>(to) * 2 + 1);
}

// A step moves one chunk per member: 1/n of the buffer in reduce_scatter, all_gather, all_to_all
// (pairwise) and in both halves of all_reduce. A broadcast is a pipelined ring: the buffer passes
// every link once, in n-1 chunks of which the last leaves the root when the first reaches the end
// of the ring; the few steps that fill and drain the pipeline are not counted twice, as if chunks
// could be made smaller for free.
CollectivePlan ring_plan(Collective kind, Bytes size, int members, Time alpha,
                         BytesPerSecond bandwidth) {
  CollectivePlan plan;
  if (members < 2) return plan;
  const std::int64_t n = members;
  std::int64_t chunk = size.value;
  switch (kind) {
    case Collective::all_reduce:
      plan.steps = static_cast<int>(2 * (n - 1));
      chunk = divide_up(size.value, n);
      break;
    case Collective::all_gather:
    case Collective::reduce_scatter:
    case Collective::all_to_all:
      plan.steps = static_cast<int>(n - 1);
      chunk = divide_up(size.value, n);
      break;
    case Collective::broadcast:
      plan.steps = static_cast<int>(n - 1);
      chunk = divide_up(size.value, n - 1);
      break;
    case Collective::send:
    case Collective::receive:
    case Collective::exchange:
      plan.steps = 1;
      break;
  }
  const auto steps = static_cast<std::uint64_t>(plan.steps);
  plan.volume = Bytes(chunk * plan.steps);
  plan.total = (alpha + to_time(Bytes(chunk) / bandwidth)) * steps;
  return plan;
}

}  // namespace orrery
