// The rules of order and memory in their plainest form, to compare the library with: every
// operation keeps the set of all operations before it, nothing is ever dropped.
#pragma once

#include <algorithm>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/event.hpp"

namespace orrery {

class HappensBefore {
 public:
  using Set = std::bitset<1024>;

  explicit HappensBefore(std::size_t streams) : nodes_(streams) {}

  // A new operation at the tail of `stream`; its number.
  std::size_t issue(std::size_t stream) {
    const std::size_t node = before_.size();
    before_.push_back(tail(stream));
    before_.back().set(node);
    nodes_[stream].push_back(node);
    stream_of_.push_back(stream);
    return node;
  }
  // A new operation that waits for `event`.
  void fence(std::size_t stream, Event event) {
    const Set learned = known(event);
    before_[issue(stream)] |= learned;
  }
  void host_wait(Event event) { host_ |= known(event); }

  // What is ordered before the next operation of `stream`.
  Set tail(std::size_t stream) const {
    return nodes_[stream].empty() ? host_ : before_[nodes_[stream].back()] | host_;
  }
  bool ordered(std::size_t node, std::size_t stream) const { return tail(stream).test(node); }
  std::size_t stream_of(std::size_t node) const { return stream_of_[node]; }
  std::size_t operations() const { return before_.size(); }
  std::size_t operations(std::size_t stream) const { return nodes_[stream].size(); }
  std::size_t last(std::size_t stream) const { return nodes_[stream].back(); }

 private:
  Set known(Event event) const {
    return event.ordinal == 0 ? Set() : before_[nodes_[event.stream][event.ordinal - 1]];
  }
  std::vector<Set> before_;
  std::vector<std::vector<std::size_t>> nodes_;  // by stream and ordinal - 1
  std::vector<std::size_t> stream_of_;
  Set host_;
};

// A storage and everything that ever used it.
struct NaiveStorage {
  struct Use {
    std::size_t node;
    std::int64_t begin, end;
    bool write, racy;
  };
  std::size_t home = 0;
  std::int64_t bytes = 0;
  std::vector<Use> uses;
  bool dead = false;

  // Whether using [begin, end) next on `stream` clashes with an earlier use.
  bool clashes(const HappensBefore& order, std::size_t stream, std::int64_t begin, std::int64_t end,
               bool write, bool racy) const {
    return std::any_of(uses.begin(), uses.end(), [&](const Use& use) {
      return use.begin < end && begin < use.end && (write || use.write) && !racy && !use.racy &&
             !order.ordered(use.node, stream);
    });
  }
  // Whether memory that nobody holds any more has been given back.
  bool refunded(const HappensBefore& order) const {
    return dead && std::all_of(uses.begin(), uses.end(), [&](const Use& use) {
             return order.stream_of(use.node) == home || order.ordered(use.node, home);
           });
  }
};

}  // namespace orrery
