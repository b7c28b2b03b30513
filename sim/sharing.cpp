// How much of its links a group has when its sibling groups communicate as well.
#include <algorithm>

#include "sim/collectives.hpp"

namespace orrery::sim {

namespace {

constexpr std::int64_t unit = std::int64_t{1} << 30;  // bytes that each member passes on

// The axes that a communicator's group is named by; an edge's name adds a signed offset.
Axes axes_of(const std::string& group) {
  Axes axes;
  for (int a = 0; a < axis_count; ++a) {
    const std::string axis = name(static_cast<Axis>(a));
    for (std::size_t at = group.find(axis); at != std::string::npos;
         at = group.find(axis, at + 1)) {
      const std::size_t end = at + axis.size();
      const bool begins = at == 0 || group[at - 1] == '+';
      const bool ends = end == group.size() || group[end] == '+' || group[end] == '-';
      if (begins && ends) axes = axes | Axes(static_cast<Axis>(a));
    }
  }
  return axes;
}

std::vector<Flow> flows_of(const Machine& machine, const std::vector<int>& members, bool pairwise) {
  if (pairwise)
    return machine.flows(Collective::all_to_all,
                         Bytes(unit / static_cast<std::int64_t>(members.size())), members);
  return ring_flows(machine.rings(members), Bytes(unit));
}

// Calls `use(link, bytes)` for every link of every flow.
template <class Flows, class Use>
void for_each_link(const Machine& machine, const Flows& flows, const Use& use) {
  std::vector<std::uint32_t> path;
  for (const Flow& flow : flows) {
    path.clear();
    machine.route(flow.from, flow.to, path);
    for (const std::uint32_t link : path) use(link, static_cast<double>(flow.size.value));
  }
}

}  // namespace

const std::vector<double>& Collectives::sibling_load(const Communicator& communicator,
                                                     bool pairwise) {
  for (const SiblingLoad& known : sibling_loads_)
    if (known.group == communicator.group() && known.pairwise == pairwise) return known.load;
  const Machine& machine = core_.machine;
  const Grid& grid = core_.state.options.grid;
  SiblingLoad& fresh = sibling_loads_.emplace_back();
  fresh = {communicator.group(), pairwise, std::vector<double>(machine.links().size(), 0.0)};
  const auto add = [&](std::uint32_t link, double bytes) { fresh.load[link] += bytes; };
  const Axes axes = axes_of(fresh.group);
  if (communicator.edge()) {
    Axis axis = Axis::pipeline;
    for (int a = 0; a < axis_count; ++a)
      if (axes.contains(static_cast<Axis>(a))) axis = static_cast<Axis>(a);
    const int size = grid.size(axis), from = communicator.members()[0];
    const int offset =
        grid.coordinate(communicator.members()[1], axis) - grid.coordinate(from, axis) + size;
    std::vector<Flow> all;
    for (int rank = 0; rank < grid.size(); ++rank) {
      const int to = grid.rank_with(rank, axis, (grid.coordinate(rank, axis) + offset) % size);
      if (to != rank) all.push_back({rank, to, Bytes(unit)});
    }
    for_each_link(machine, all, add);
  } else {
    for (int rank = 0; rank < grid.size(); ++rank)
      if (grid.group_leader(rank, axes) == rank)
        for_each_link(machine, flows_of(machine, grid.members(rank, axes), pairwise), add);
  }
  return fresh.load;
}

// By what factor a communicator's transfers take longer beside its siblings' than alone: the load
// of its busiest link, all siblings counted, over that of its own flows alone. At least 1.
double Collectives::sharing(const Communicator& communicator, Collective kind) {
  const bool pairwise = kind == Collective::all_to_all;
  double& known = settings(communicator).sharing[pairwise ? 1 : 0];
  if (known > 0) return known;
  const Machine& machine = core_.machine;
  const std::vector<int>& members = communicator.members();
  const std::vector<double>& together = sibling_load(communicator, pairwise);
  double alone = 0, shared = 0;
  const auto compare = [&](std::uint32_t link, double bytes) {
    const double rate = machine.links()[link].bandwidth.value;
    alone = std::max(alone, bytes / rate);
    shared = std::max(shared, together[link] / rate);
  };
  if (communicator.edge()) {  // there are as many as ranks: nothing is allocated
    path_.clear();
    machine.route(members[0], members[1], path_);
    for (const std::uint32_t link : path_) compare(link, static_cast<double>(unit));
    return known = alone > 0 ? std::max(1.0, shared / alone) : 1;
  }
  own_load_.reset(machine.links().size());
  for_each_link(machine, flows_of(machine, members, pairwise),
                [&](std::uint32_t link, double bytes) { own_load_.add(link, bytes); });
  for (const std::uint32_t link : own_load_.loaded()) compare(link, own_load_.of(link));
  return known = alone > 0 ? std::max(1.0, shared / alone) : 1;
}

}  // namespace orrery::sim
