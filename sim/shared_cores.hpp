// Devices that are threads of one processor: how fast they work depends on how many do.
//
// Kernels were measured while some number of threads worked (SharedProcessor::busy). When n work on
// c cores, the scheduler gives each its turn, and a kernel takes max(1, n / c) of what it takes on
// a core of its own. How many work is counted at the end of each instant at which a stream began or
// ceased to, and the ranks of the processor are told as of a communication beside them
// (interference.hpp). Communications are not counted: the time of one is that which was measured.
#pragma once

#include <cstdint>
#include <vector>

#include "sim/core.hpp"

namespace orrery::sim {

class SharedCores {
 public:
  // Null where each device is its own.
  static std::unique_ptr<SharedCores> of(Core& core);

  // A stream of this rank may have begun to work, or ceased.
  void changed(std::uint32_t rank);
  void count();
  // By what factor a kernel takes longer than measured when that many threads more than then have
  // no core.
  double slowness(std::uint32_t rank, std::int32_t threads) const;

 private:
  explicit SharedCores(Core& core) : core_(core) {}

  struct Processor {
    SharedProcessor shared;
    std::vector<std::uint32_t> ranks;
    std::int32_t without_core = 0;  // more than when kernels were measured
  };
  static constexpr std::uint32_t none = ~std::uint32_t{0};

  Core& core_;
  std::vector<Processor> processors_;
  std::vector<std::uint32_t> processor_of_;  // by rank
  bool count_is_due_ = false;
};

}  // namespace orrery::sim
