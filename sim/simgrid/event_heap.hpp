// The heap of device completions: entries leave in (time, rank, stream, ordinal) order.
//
// A 4-ary implicit heap of 24-byte entries. The usual pattern of a simulation is "take the first
// entry, deliver it, push its successor", so take() only marks the root as free and the next push()
// fills it: one walk down instead of one down and one up.
//
// On such a walk entries move up a level each. Who comes to level l has about 4^l others before it,
// so the client is told in time to fetch what the entry leads to, step by step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sim/simgrid/engine.hpp"

namespace orrery::sim {

struct HeapEntry {
  std::uint64_t time = 0;  // picoseconds
  std::uint64_t key = 0;   // Key::packed
  std::uint64_t payload = 0;

  bool before(const HeapEntry& o) const {
    return (static_cast<Wide>(time) << 64 | key) < (static_cast<Wide>(o.time) << 64 | o.key);
  }

 private:
  __extension__ using Wide = unsigned __int128;  // compared without a branch
};

class EventHeap {
 public:
  explicit EventHeap(EngineClient& client) : client_(client) {}

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
    for (int level = 0;; ++level) {
      const std::size_t first = i * arity + 1;
      if (first >= n) break;
      std::size_t least = first;
      const std::size_t end = first + arity < n ? first + arity : n;
      for (std::size_t c = first + 1; c < end; ++c) {
        if (at[c].before(at[least])) least = c;
      }
      if (!at[least].before(entry)) break;
      at[i] = at[least];
      if (level <= EngineClient::farthest) client_.approaches(level, at[i].payload);
      i = least;
    }
    at[i] = entry;
  }

  EngineClient& client_;
  std::vector<HeapEntry> entries_;
  bool root_free_ = false;  // the entry at the root has been taken and nothing has replaced it yet
};

}  // namespace orrery::sim
