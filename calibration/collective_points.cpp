#include "calibration/collective_points.hpp"

#include <array>
#include <set>

namespace orrery {

namespace {

constexpr std::array operations{Collective::all_reduce,     Collective::all_gather,
                                Collective::reduce_scatter, Collective::broadcast,
                                Collective::all_to_all,     Collective::send,
                                Collective::exchange};

}  // namespace

std::vector<CollectivePoint> collective_points(int members, const std::vector<std::int64_t>& kept,
                                               const std::vector<std::int64_t>& held_back) {
  std::vector<CollectivePoint> points;
  for (const Collective operation : operations) {
    const bool pair = operation == Collective::send || operation == Collective::exchange;
    if (pair && members > 2) continue;
    for (const std::int64_t elements : kept)
      points.push_back({operation, elements == 0 ? members : elements / members * members, false});
    for (const std::int64_t elements : held_back)
      points.push_back({operation, elements / members * members, true});
  }
  return points;
}

std::vector<int> groups_up_to(int ranks) {
  std::set<int> groups;
  for (int members = 2; members <= ranks; members *= 2) groups.insert(members);
  if (ranks > 1) groups.insert(ranks);
  return {groups.begin(), groups.end()};
}

CollectiveOperands::CollectiveOperands(Rank& rank, int members, std::int64_t largest,
                                       Stream& communication, Stream& sending)
    : first_(rank.id() == 0),
      members_(members),
      communication_(communication),
      sending_(sending),
      group_(rank.channel(Axis::replicate, "calibration")),
      edge_(rank.edge(Axis::replicate, 1, "calibration")),
      in_(rank.allocate(communication, Label::communication, largest, Dtype::fp32)),
      out_(rank.allocate(communication, Label::communication, largest, Dtype::fp32)),
      message_(rank.allocate(sending, Label::communication, largest, Dtype::fp32)) {
  const Prepared fill = rank.prepare(Kernel::fill(largest, 0.5, Dtype::fp32));
  communication_.launch(fill, {in_});
  communication_.launch(fill, {out_});
  sending_.launch(fill, {message_});
}

void CollectiveOperands::issue(const CollectivePoint& point) {
  const std::int64_t n = point.elements, part = n / members_;
  const Tensor in = in_.slice(0, n), out = out_.slice(0, n);
  switch (point.operation) {
    case Collective::all_reduce:
      communication_.all_reduce(in, Reduce::mean, group_);
      break;
    case Collective::all_gather:
      communication_.all_gather(out, in.slice(0, part), group_);
      break;
    case Collective::reduce_scatter:
      communication_.reduce_scatter(out.slice(0, part), in, Reduce::mean, group_);
      break;
    case Collective::broadcast:
      communication_.broadcast(in, 0, group_);
      break;
    case Collective::all_to_all:
      communication_.all_to_all(out, in, group_);
      break;
    case Collective::exchange:
      communication_.exchange(in, out, first_ ? 1 : 0, group_);
      break;
    case Collective::send:
    case Collective::receive:
      if (first_) sending_.send(message_.slice(0, n), edge_);
      if (!first_) sending_.receive(message_.slice(0, n), edge_);
  }
}

}  // namespace orrery
