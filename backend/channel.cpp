#include "backend/channel.hpp"

#include <algorithm>
#include <array>

#include "backend/device.hpp"

namespace orrery {

const char* name(Collective kind) {
  static constexpr std::array<const char*, 8> names{"all_reduce", "all_gather", "reduce_scatter",
                                                    "broadcast",  "all_to_all", "send",
                                                    "receive",    "exchange"};
  return names.at(static_cast<std::size_t>(kind));
}

const char* name(Reduce reduce) {
  static constexpr std::array<const char*, 3> names{"sum", "mean", "max"};
  return names.at(static_cast<std::size_t>(reduce));
}

namespace {

bool pairwise(Collective kind) {
  return kind == Collective::send || kind == Collective::receive || kind == Collective::exchange;
}

std::string describe(const Communication& c) {
  std::string text =
      std::string(name(c.kind)) + " of " + std::to_string(c.elements) + " " + name(c.dtype);
  if (c.kind == Collective::all_reduce || c.kind == Collective::reduce_scatter)
    text += std::string(", ") + name(c.reduce);
  if (c.kind == Collective::broadcast) text += ", root " + std::to_string(c.root);
  return text;
}

// Whether two members' sides can be the same operation.
bool match(const Communication& a, const Communication& b) {
  if (a.elements != b.elements || a.dtype != b.dtype) return false;
  if (a.kind == Collective::send || a.kind == Collective::receive)
    return b.kind == (a.kind == Collective::send ? Collective::receive : Collective::send);
  return a.kind == b.kind && a.reduce == b.reduce && a.root == b.root;
}

}  // namespace

Bytes wire_bytes(Collective kind, Bytes size, int members) {
  const std::int64_t n = members;
  if (n <= 1) return Bytes(0);
  switch (kind) {
    case Collective::all_reduce:
      return Bytes((2 * (n - 1) * size.value + n / 2) / n);
    case Collective::all_gather:
    case Collective::reduce_scatter:
    case Collective::all_to_all:
    case Collective::broadcast:
      return Bytes(((n - 1) * size.value + n / 2) / n);
    case Collective::send:
    case Collective::exchange:
      return size;
    case Collective::receive:
      return Bytes(0);
  }
  return Bytes(0);
}

int Rendezvous::part_index(int member) const {
  if (!pairwise(first.kind)) return member;
  if (communicator->edge()) return member;  // 0 sends, 1 receives
  return member == std::min(first.member, first.peer) ? 0 : 1;
}

std::string Rendezvous::describe() const {
  return std::string(name(first.kind)) + " #" + std::to_string(sequence) + " on " +
         communicator->name() + " (" + to_string(first.site) + ")";
}

std::vector<int> Rendezvous::missing() const {
  std::vector<int> ranks;
  const auto& members = communicator->members();
  if (first.kind == Collective::exchange) {
    if (issued < 2) ranks.push_back(members[static_cast<std::size_t>(first.peer)]);
    return ranks;
  }
  const auto look_at = [&](int member) {
    if (communicator->issued(member) <= sequence)
      ranks.push_back(members[static_cast<std::size_t>(member)]);
  };
  communicator->for_each_side(look_at);
  return ranks;
}

Communicator::Communicator(std::uint32_t id, std::string group, std::string lane,
                           std::vector<int> members, bool edge, std::vector<int> sides)
    : id_(id),
      group_(std::move(group)),
      lane_(std::move(lane)),
      members_(std::move(members)),
      sides_(std::move(sides)),
      edge_(edge),
      issued_(members_.size(), 0),
      streams_(members_.size(), std::int16_t{-1}) {}

Rendezvous& Communicator::find_or_open(std::deque<std::unique_ptr<Rendezvous>>& queue,
                                       std::uint64_t& base, std::uint64_t sequence,
                                       const Communication& c, int expected, bool with_parts) {
  const std::size_t place = static_cast<std::size_t>(sequence - base);
  ORRERY_ASSERT(place <= queue.size(), "operations of a channel are issued in order");
  if (place == queue.size()) {
    std::unique_ptr<Rendezvous> fresh;
    if (spare_.empty()) {
      fresh = std::make_unique<Rendezvous>();
    } else {
      fresh = std::move(spare_.back());
      spare_.pop_back();
      fresh->issued = fresh->arrived = fresh->finished = 0;
      fresh->world = 0;
      fresh->order.clear();
      fresh->parts.clear();
    }
    fresh->communicator = this;
    fresh->first = c;
    fresh->sequence = sequence;
    fresh->expected = expected;
    if (with_parts) fresh->parts.resize(static_cast<std::size_t>(expected));
    queue.push_back(std::move(fresh));
  }
  return *queue[place];
}

Rendezvous& Communicator::issue(
    const Communication& c,
    const std::vector<std::pair<const Communicator*, std::uint64_t>>& others, bool with_parts) {
  Rendezvous* rendezvous = nullptr;
  if (c.kind == Collective::exchange) {
    const int low = std::min(c.member, c.peer), high = std::max(c.member, c.peer);
    Pair& pair = pairs_[{low, high}];
    const std::uint64_t sequence = pair.issued[c.member == low ? 0 : 1]++;
    rendezvous = &find_or_open(pair.pending, pair.base, sequence, c, 2, with_parts);
  } else {
    const std::uint64_t sequence = issued_[static_cast<std::size_t>(c.member)]++;
    rendezvous = &find_or_open(pending_, base_, sequence, c, sides(), with_parts);
  }
  Rendezvous& r = *rendezvous;
  const int here = members_[static_cast<std::size_t>(c.member)];
  const int there = members_[static_cast<std::size_t>(r.first.member)];
  if (r.issued > 0 && !match(r.first, c)) {
    throw Error(Category::mismatch, "members of " + name() +
                                        " issued different operations as number " +
                                        std::to_string(r.sequence))
        .with("rank " + std::to_string(there),
              orrery::describe(r.first) + " (" + to_string(r.first.site) + ")")
        .with("rank " + std::to_string(here), orrery::describe(c) + " (" + to_string(c.site) + ")");
  }
  for (const auto& [other, count] : others) {
    const auto known = std::find_if(r.order.begin(), r.order.end(),
                                    [other = other](const auto& o) { return o.first == other; });
    if (known == r.order.end()) {
      r.order.emplace_back(other, count);
    } else if (known->second != count) {
      throw Error(Category::deadlock, "operations on " + name() + " and " + other->name() +
                                          " are issued in different orders by their members: on a "
                                          "GPU their kernels can wait for each other for ever")
          .with("rank " + std::to_string(here), orrery::describe(c) + " after " +
                                                    std::to_string(count) + " operations on " +
                                                    other->name() + " (" + to_string(c.site) + ")")
          .with("rank " + std::to_string(there),
                orrery::describe(r.first) + " after " + std::to_string(known->second) +
                    " operations on " + other->name() + " (" + to_string(r.first.site) + ")");
    }
  }
  if (with_parts) {
    Rendezvous::Part& part = r.parts[static_cast<std::size_t>(r.part_index(c.member))];
    part.issued = true;
    part.site = c.site;
  }
  ++r.issued;
  return r;
}

void Communicator::retire(Rendezvous& rendezvous) {
  auto* queue = &pending_;
  std::uint64_t* base = &base_;
  if (rendezvous.first.kind == Collective::exchange) {
    Pair& pair = pairs_.at({std::min(rendezvous.first.member, rendezvous.first.peer),
                            std::max(rendezvous.first.member, rendezvous.first.peer)});
    queue = &pair.pending;
    base = &pair.base;
  }
  // Streams are FIFO and a communicator has one per member, so operations end in order.
  ORRERY_ASSERT(!queue->empty() && queue->front().get() == &rendezvous,
                "operations of a channel end in order");
  spare_.push_back(std::move(queue->front()));
  queue->pop_front();
  ++*base;
}

std::vector<const Rendezvous*> Communicator::all_pending() const {
  std::vector<const Rendezvous*> all;
  for (const auto& r : pending_) all.push_back(r.get());
  for (const auto& [pair, state] : pairs_)
    for (const auto& r : state.pending) all.push_back(r.get());
  return all;
}

Communicator& Communicators::open(const std::string& key, const std::string& group,
                                  const std::string& lane, bool edge,
                                  const std::function<std::vector<int>()>& members) {
  const std::lock_guard lock(mutex_);
  Communicator*& found = by_key_[key];
  if (found == nullptr) {
    const std::vector<int> ranks = members();
    std::vector<int> sides = edge ? std::vector<int>{} : sides_of(ranks);
    all_.push_back(std::make_unique<Communicator>(static_cast<std::uint32_t>(all_.size()), group,
                                                  lane, ranks, edge, std::move(sides)));
    found = all_.back().get();
  }
  return *found;
}

// Group indices of the first member of each class.
std::vector<int> Communicators::sides_of(const std::vector<int>& members) const {
  std::vector<int> sides;
  if (partition_ == nullptr) return sides;
  std::vector<bool> seen(partition_->classes());
  for (std::size_t i = 0; i < members.size(); ++i) {
    const std::uint32_t its = partition_->class_of[static_cast<std::size_t>(members[i])];
    if (!seen[its]) sides.push_back(static_cast<int>(i));
    seen[its] = true;
  }
  return sides;
}

// All groups over the same axes that hold a class hold the same classes, so the first of these
// names them.
Communicator& Communicators::group(int rank, Axes axes, const std::string& lane) {
  int leader = grid_.group_leader(rank, axes);
  if (partition_ != nullptr) {
    std::uint32_t first = partition_->class_of[static_cast<std::size_t>(rank)];
    for (const int member : grid_.members(rank, axes))
      first = std::min(first, partition_->class_of[static_cast<std::size_t>(member)]);
    rank = partition_->representatives[first];
    leader = grid_.group_leader(rank, axes);
  }
  const std::string group = axes.to_string();
  return open(group + "/" + lane + "@" + std::to_string(leader), group, lane, false,
              [&] { return grid_.members(rank, axes); });
}

Communicator& Communicators::subgroup(const Communicator& whole, const std::vector<int>& ranks) {
  std::string key = std::to_string(whole.id()) + " of";
  for (const int rank : ranks) key += " " + std::to_string(rank);
  return open(key, whole.group(), whole.lane(), false, [&] { return ranks; });
}

int Communicators::index_in_group(int rank, Axes axes, const Communicator& communicator) const {
  if (partition_ == nullptr) return grid_.index_in_group(rank, axes);
  const auto class_of = [this](int r) { return partition_->class_of[static_cast<std::size_t>(r)]; };
  const std::vector<int>& members = communicator.members();
  const auto mine = std::find_if(members.begin(), members.end(),
                                 [&](int member) { return class_of(member) == class_of(rank); });
  ORRERY_ASSERT(mine != members.end(), "a class is among those of its group");
  return static_cast<int>(mine - members.begin());
}

Communicator& Communicators::edge(int from, Axis axis, int offset, const std::string& lane) {
  if (partition_ != nullptr) from = partition_->representative_of(from);
  const std::string group =
      std::string(orrery::name(axis)) + (offset < 0 ? "" : "+") + std::to_string(offset);
  return open(group + "/" + lane + "@" + std::to_string(from), group, lane, true, [&] {
    const int size = grid_.size(axis);
    const int to = (grid_.coordinate(from, axis) + offset) % size;
    return std::vector<int>{from, grid_.rank_with(from, axis, (to + size) % size)};
  });
}

int Channel::index(Site site) const {
  if (device_ != nullptr) device_->asks(Identity::coordinate, axes_, site);
  return index_;
}

const std::vector<int>& Channel::ranks(Site site) const {
  if (device_ != nullptr) device_->asks(Identity::coordinate, axes_, site);
  return out_->members();
}

ChannelUse& Channel::use(Collective kind) {
  for (ChannelUse& use : uses_)
    if (use.kind == kind) return use;
  uses_.push_back({kind, 0, Bytes(0), Time{}, Time{}});
  return uses_.back();
}

}  // namespace orrery
