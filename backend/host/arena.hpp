// Where one rank's tensors in host memory live: 64-byte aligned blocks, kept for reuse when they
// are freed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <unordered_map>
#include <vector>

#include "backend/core/units.hpp"
#include "backend/event.hpp"
#include "backend/tensor.hpp"

namespace orrery::host {

// Used by the rank's flows, one at a time. What is in fresh memory is undefined. A freed block
// serves the next tensor of its size on the same home stream at once, since that stream runs in
// order; one on another home only when the stream has passed the event given with it.
class Arena {
 public:
  using Done = std::function<bool(Event)>;
  // Where blocks come from: 64-byte aligned. `early`: blocks may be given back before the arena's
  // end, not where that waits for streams.
  struct Source {
    void* (*take)(std::size_t bytes);
    void (*give_back)(void* data);
    bool early = true;
  };
  static const Source ordinary_memory;
  explicit Arena(Done done, Source source = ordinary_memory)
      : done_(std::move(done)), source_(source) {}
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  void* take(Bytes size, std::uint32_t home, Place place);
  void give_back(void* data, Bytes size, std::uint32_t home, Place place, Event after);

  // The most that tensors of a place held at once, each rounded up to 64 bytes.
  Bytes high_water(Place place) const { return use_[static_cast<std::size_t>(place)].highest; }
  Bytes live(Place place) const { return use_[static_cast<std::size_t>(place)].live; }

 private:
  struct Free {
    void* data;
    std::uint32_t home;
    Event after;
  };
  struct Use {
    Bytes live, highest;
  };
  void trim();

  Done done_;
  Source source_;
  std::unordered_map<std::int64_t, std::vector<Free>> free_;  // by size
  Bytes cached_;
  Use use_[2];
};

}  // namespace orrery::host
