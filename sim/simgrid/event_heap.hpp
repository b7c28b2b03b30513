// The heap of device completions: entries leave in (time, rank, stream, ordinal) order.
//
// A 4-ary implicit heap of 32-byte entries. The usual pattern of a simulation is "take the first
// entry, deliver it, push its successor", so take() only marks the root as free and the next push()
// fills it: one walk down instead of one down and one up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace orrery::sim {

struct HeapEntry {
  std::uint64_t time = 0;   // picoseconds
  std::uint64_t place = 0;  // rank and stream, see make_place
  std::uint64_t ordinal = 0;
  std::uint64_t payload = 0;

  static std::uint64_t make_place(std::uint32_t rank, std::uint16_t stream) {
    return (std::uint64_t{rank} << 16) | stream;
  }
  std::uint32_t rank() const { return static_cast<std::uint32_t>(place >> 16); }
  std::uint16_t stream() const { return static_cast<std::uint16_t>(place & 0xffff); }

  bool before(const HeapEntry& o) const {
    if (time != o.time) return time < o.time;
    if (place != o.place) return place < o.place;
    return ordinal < o.ordinal;
  }
};

class EventHeap {
 public:
  bool empty() const { return entries_.size() == (root_free_ ? 1u : 0u); }
  std::size_t size() const { return entries_.size() - (root_free_ ? 1u : 0u); }
  void clear() {
    entries_.clear();
    root_free_ = false;
  }

  void push(const HeapEntry& entry) {
    if (root_free_) {
      root_free_ = false;
      sink(entry);
    } else {
      entries_.push_back(entry);
      rise(entry);
    }
  }

  // The first entry. The heap must not be empty.
  const HeapEntry& top() {
    if (root_free_) {
      const HeapEntry last = entries_.back();
      entries_.pop_back();
      root_free_ = false;
      sink(last);
    }
    return entries_.front();
  }

  // After take(): who is first unless something earlier is pushed; null when nothing is left.
  const HeapEntry* likely_next() const {
    if (entries_.size() < 2) return nullptr;
    const HeapEntry* least = &entries_[1];
    for (std::size_t i = 2; i <= arity && i < entries_.size(); ++i)
      if (entries_[i].before(*least)) least = &entries_[i];
    return least;
  }

  // Removes what top() returned just now; nothing may come between the two calls.
  HeapEntry take() {
    root_free_ = true;
    return entries_.front();
  }

 private:
  static constexpr std::size_t arity = 4;

  void rise(const HeapEntry& entry) {
    HeapEntry* const at = entries_.data();
    std::size_t i = entries_.size() - 1;
    while (i > 0) {
      const std::size_t parent = (i - 1) / arity;
      if (!entry.before(at[parent])) break;
      at[i] = at[parent];
      i = parent;
    }
    at[i] = entry;
  }

  // Places `entry` at the free root.
  void sink(const HeapEntry& entry) {
    HeapEntry* const at = entries_.data();
    const std::size_t n = entries_.size();
    std::size_t i = 0;
    for (;;) {
      const std::size_t first = i * arity + 1;
      if (first >= n) break;
      std::size_t least = first;
      const std::size_t end = first + arity < n ? first + arity : n;
      for (std::size_t c = first + 1; c < end; ++c) {
        if (at[c].before(at[least])) least = c;
      }
      if (!at[least].before(entry)) break;
      at[i] = at[least];
      i = least;
    }
    at[i] = entry;
  }

  std::vector<HeapEntry> entries_;
  bool root_free_ = false;  // the entry at the root has been taken and nothing has replaced it yet
};

}  // namespace orrery::sim
