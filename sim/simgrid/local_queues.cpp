#include "sim/simgrid/local_queues.hpp"

#include <algorithm>
#include <utility>

#include "backend/core/error.hpp"

namespace orrery::sim {

namespace {

constexpr auto later = [](const auto& a, const auto& b) { return b < a; };

QueueEntry pop(std::vector<QueueEntry>& heap) {
  std::pop_heap(heap.begin(), heap.end(), later);
  const QueueEntry first = heap.back();
  heap.pop_back();
  return first;
}

void push_on(std::vector<QueueEntry>& heap, const QueueEntry& entry) {
  heap.push_back(entry);
  std::push_heap(heap.begin(), heap.end(), later);
}

}  // namespace

LocalQueues::LocalQueues(EngineClient& client, std::vector<std::uint16_t> neighbourhood_of)
    : client_(client),
      neighbourhood_of_(std::move(neighbourhood_of)),
      locals_(std::size_t{1} + *std::ranges::max_element(neighbourhood_of_)) {}

void LocalQueues::push(const QueueEntry& entry) {
  const std::uint32_t number = neighbourhood_of_[Key::unpacked(entry.key).rank];
  Local& local = locals_[number];
  ORRERY_ASSERT(entry.time >= local.reached, "no neighbourhood goes on further than it may");
  push_on(local.heap, entry);
  ++entries_;
  if (number != current_ && entry.time < local.listed) list(number, entry.time);
}

void LocalQueues::await(std::uint32_t rank, std::uint64_t when, std::uint64_t payload) {
  const std::uint32_t number = neighbourhood_of_[rank];
  push_on(locals_[number].heap, {when, awaits, payload});
  if (number != current_ && when < locals_[number].listed) list(number, when);
}

void LocalQueues::list(std::uint32_t number, std::uint64_t time) {
  locals_[number].listed = time;
  order_.push_back({time, number});
  std::push_heap(order_.begin(), order_.end(), [](const Next& a, const Next& b) {
    return std::pair(b.time, b.number) < std::pair(a.time, a.number);
  });
}

// The one that is first in time.
void LocalQueues::choose() {
  while (current_ == nobody) {
    std::pop_heap(order_.begin(), order_.end(), [](const Next& a, const Next& b) {
      return std::pair(b.time, b.number) < std::pair(a.time, a.number);
    });
    const Next next = order_.back();
    order_.pop_back();
    Local& local = locals_[next.number];
    if (local.listed != next.time) continue;
    local.listed = never;
    current_ = next.number;
    first_ = next.time;
  }
}

// The front of the current one is what it awaits: whether it can go on nevertheless.
bool LocalQueues::passes_awaited() {
  std::vector<QueueEntry>& heap = current().heap;
  const Time more = client_.awaited(heap.front().payload);
  const bool is_first = heap.front().time == first_;
  if (more != Time{} && !is_first) return false;
  QueueEntry awaited = pop(heap);
  if (more == Time{}) return true;
  awaited.time += more.picoseconds;
  push_on(heap, awaited);
  return true;
}

bool LocalQueues::advance(std::uint64_t& now) {
  while (entries_ > 0) {
    if (current_ == nobody) choose();
    std::vector<QueueEntry>& heap = current().heap;
    if (!heap.empty() && heap.front().key != awaits) {
      now = now_ = current().reached = heap.front().time;
      return true;
    }
    if (!heap.empty() && passes_awaited()) continue;
    const std::uint32_t left = std::exchange(current_, nobody);
    if (!heap.empty()) list(left, heap.front().time);
  }
  for (const Local& local : locals_) now = std::max(now, local.reached);
  return false;
}

bool LocalQueues::take(QueueEntry& entry) {
  if (current_ == nobody || current().heap.empty() || current().heap.front().time != now_)
    return false;
  entry = pop(current().heap);
  --entries_;
  return true;
}

void LocalQueues::clear() {
  for (Local& local : locals_) local = {};
  order_.clear();
  entries_ = 0;
  current_ = nobody;
}

}  // namespace orrery::sim
