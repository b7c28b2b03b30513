#include "sim/simgrid/event_queue.hpp"

#include <algorithm>
#include <bit>
#include <functional>

#include "backend/core/error.hpp"

namespace orrery::sim {

namespace {

// How many entries a bucket is made for, and with how many it is divided.
constexpr std::size_t usual = 8, too_many = 64;

}  // namespace

void EventQueue::clear() {
  size_ = next_ = depth_ = 0;
  near_.clear();
  late_.clear();
  far_.clear();
  chunks_.clear();
  free_chunk_ = 0;
  near_end_ = far_from_ = far_last_ = 0;
  far_first_ = ~std::uint64_t{0};
}

// ---- What comes

void EventQueue::push_far(const QueueEntry& entry) {
  far_first_ = std::min(far_first_, entry.time);
  far_last_ = std::max(far_last_, entry.time);
  far_.push_back(entry);
}

void EventQueue::push_in_rung(const QueueEntry& entry) {
  std::size_t rung = depth_ - 1;
  while (entry.time >= rungs_[rung].end) --rung;
  add(rungs_[rung], entry);
}

void EventQueue::push_late(const QueueEntry& entry) {
  late_.push_back(entry);
  std::push_heap(late_.begin(), late_.end(), [](const auto& a, const auto& b) { return b < a; });
}

QueueEntry EventQueue::take_late() {
  std::pop_heap(late_.begin(), late_.end(), [](const auto& a, const auto& b) { return b < a; });
  const QueueEntry first = late_.back();
  late_.pop_back();
  return first;
}

// ---- Buckets

void EventQueue::add(Rung& rung, const QueueEntry& entry) {
  Bucket& bucket = rung.buckets[(entry.time - rung.start) >> rung.shift];
  const std::uint32_t place = bucket.count++ % Chunk::size;
  if (place == 0) {
    if (chunks_.empty()) chunks_.emplace_back();  // 0 is no chunk
    std::uint32_t fresh = free_chunk_;
    if (fresh == 0) {
      fresh = static_cast<std::uint32_t>(chunks_.size());
      chunks_.emplace_back();
    } else {
      free_chunk_ = chunks_[fresh].next;
    }
    chunks_[fresh].next = std::exchange(bucket.chunk, fresh);
  }
  chunks_[bucket.chunk].entries[place] = entry;
}

// Valid until something is added.
template <class Each>
void EventQueue::for_each_chunk(const Bucket& bucket, const Each& each) const {
  std::uint32_t left = bucket.count;
  for (std::uint32_t number = bucket.chunk; left > 0; number = chunks_[number].next) {
    const std::uint32_t here = (left - 1) % Chunk::size + 1;
    each(std::span(chunks_[number].entries).first(here));
    left -= here;
  }
}

void EventQueue::release(const Bucket& bucket) {
  std::uint32_t left = (bucket.count + Chunk::size - 1) / Chunk::size;
  for (std::uint32_t number = bucket.chunk; left > 0; --left) {
    const std::uint32_t next = std::exchange(chunks_[number].next, free_chunk_);
    free_chunk_ = std::exchange(number, next);
  }
}

// ---- What is next

// Puts in order what is due next, as long as the client is to be told of more.
void EventQueue::extend() {
  near_.erase(near_.begin(), near_.begin() + static_cast<std::ptrdiff_t>(next_));
  next_ = 0;
  while (near_.size() < ahead && (depth_ > 0 || !far_.empty())) {
    if (depth_ == 0) divide_far();
    Rung& rung = rungs_[depth_ - 1];
    while (rung.next < rung.buckets.size() && rung.buckets[rung.next].count == 0) ++rung.next;
    near_end_ = rung.start_of(rung.next);
    if (rung.next == rung.buckets.size()) {
      --depth_;
      continue;
    }
    const Bucket bucket = std::exchange(rung.buckets[rung.next++], {});
    if (bucket.count > too_many && rung.shift > 0 && !at_one_time(bucket)) {
      divide(rung, bucket);
    } else {
      append(bucket);
      near_end_ = rung.start_of(rung.next);
    }
  }
}

bool EventQueue::at_one_time(const Bucket& bucket) const {
  const std::uint64_t time = chunks_[bucket.chunk].entries[0].time;
  bool equal = true;
  for_each_chunk(bucket, [&](std::span<const QueueEntry> entries) {
    for (const QueueEntry& entry : entries) equal = equal && entry.time == time;
  });
  return equal;
}

void EventQueue::append(const Bucket& bucket) {
  const auto from = static_cast<std::ptrdiff_t>(near_.size());
  for_each_chunk(bucket, [this](std::span<const QueueEntry> entries) {
    near_.insert(near_.end(), entries.begin(), entries.end());
  });
  release(bucket);
  std::sort(near_.begin() + from, near_.end());
}

EventQueue::Rung& EventQueue::add_rung(std::uint64_t start, int shift, std::size_t buckets) {
  if (rungs_.size() == depth_) rungs_.emplace_back();
  Rung& rung = rungs_[depth_++];
  rung.start = near_end_ = start;
  rung.shift = shift;
  rung.next = 0;
  rung.buckets.assign(buckets, {});
  rung.end = rung.start_of(buckets);
  return rung;
}

// What was far becomes the first rung; what is further than all that, far.
void EventQueue::divide_far() {
  const std::uint64_t span = far_last_ - far_first_;
  const int shift = static_cast<int>(std::bit_width(span / (far_.size() / usual + 2)));
  Rung& rung = add_rung(far_first_, shift, (span >> shift) + 1);
  for (const QueueEntry& entry : far_) add(rung, entry);
  far_.clear();
  far_from_ = rung.end;
  far_first_ = ~std::uint64_t{0};
  far_last_ = 0;
}

void EventQueue::divide(const Rung& rung, const Bucket& bucket) {
  const int levels = std::min(rung.shift, static_cast<int>(std::bit_width(bucket.count / usual)));
  std::vector<QueueEntry> entries;
  for_each_chunk(bucket, [&](std::span<const QueueEntry> some) {
    entries.insert(entries.end(), some.begin(), some.end());
  });
  release(bucket);
  Rung& inner =
      add_rung(rung.start_of(rung.next - 1), rung.shift - levels, std::size_t{1} << levels);
  for (const QueueEntry& entry : entries) add(inner, entry);
}

}  // namespace orrery::sim
