// What CUDA's own pools of stream-ordered memory held, to lay beside the ledger.
#pragma once

#include <driver_types.h>

#include <optional>
#include <vector>

#include "backend/world.hpp"

namespace orrery::cuda {

// From its making on, of the default pools of some GPUs. Another watch of one of them begins anew.
class PoolWatch {
 public:
  explicit PoolWatch(std::vector<int> gpus);  // a GPU may be named twice
  // Use counts anew: products are tried out before, on memory of their own, which `reserved` holds.
  void first_step_ended();
  // Sums over the GPUs, each at its highest. Nothing where CUDA does not tell.
  std::optional<PoolUse> use() const;

 private:
  void forget_highest(cudaMemPoolAttr mark) const;

  std::vector<int> gpus_;
};

}  // namespace orrery::cuda
