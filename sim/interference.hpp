// Kernels beside communications: what these keep of a GPU, and how much longer kernels take for it.
//
// A collective is a kernel too. From its start, be it to wait for other ranks, to its end it keeps
// multiprocessors, and while it transfers a part of the memory's bandwidth (Machine::taken). Of a
// kernel that would take d(x) if x were taken all the time, 1/d(x) is done per second: it ends when
// the integral of that is 1. x is constant between a GPU's changes, which are kept as long as an
// operation runs that began before them; so the end of an operation is a function of its start, and
// equal for ranks that are alike. Communications themselves do not slow down for kernels or for
// each other here.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "backend/prepared.hpp"
#include "sim/core.hpp"

namespace orrery::sim {

// What is taken of one GPU, from when on.
class Presence {
 public:
  struct Step {
    Time from;
    Taken taken;
    std::uint32_t level = 0;  // number of `taken`; 0: nothing
  };
  // Nothing is taken at `time` and, as far as is known, ever after.
  bool quiet_from(Time time) const {
    return steps_.back().level == 0 && steps_.back().from <= time;
  }
  const std::vector<Step>& steps() const { return steps_; }  // ascending; the last has no end

 private:
  friend class Interference;
  std::vector<Step> steps_{{}};
};

class Interference {
 public:
  explicit Interference(Core& core) : core_(core) {}

  // From `from` on, which is not before now, so much more (or less) is taken of the rank's GPU.
  // What runs there ends later (or earlier). Streams::run_ready() must follow.
  void take(SimRank& rank, const Taken& more, Time from) { change(rank, more, 1, from); }
  void give_back(SimRank& rank, const Taken& less, Time from) { change(rank, less, -1, from); }

  // What is taken of a rank's GPU; null: nothing ever was.
  const Presence* presence(std::uint32_t rank) const {
    return rank < presences_.size() ? presences_[rank].get() : nullptr;
  }
  // When a kernel ends that starts at `start`; `factor` multiplies what it takes.
  Time end_of(const SimRank& rank, const PreparedKernel& kernel, Time start, double factor);

 private:
  void change(SimRank& rank, const Taken& by, int sign, Time from);
  void forget(Presence& presence, const SimRank& rank) const;
  std::uint32_t level_of(const Taken& taken);
  Time duration(const SimRank& rank, const PreparedKernel& kernel, std::uint32_t level);

  Core& core_;
  std::vector<std::unique_ptr<Presence>> presences_;  // by rank
  std::vector<Taken> levels_{{}};
  std::unordered_map<const PreparedKernel*, std::vector<Time>> durations_;  // by level; 0: unknown
};

}  // namespace orrery::sim
