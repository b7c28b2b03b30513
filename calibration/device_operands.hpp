// The operands of kernels in a device's memory, at several places.
#pragma once

#include <map>
#include <utility>
#include <vector>

#include "backend/rank.hpp"
#include "calibration/kernel_points.hpp"

namespace orrery {

// Memory that the kernels of all points have their operands in: random numbers, which cost a device
// as much power as training's, that nothing writes to, and others of the same size to write to.
// Filled once; a buffer for each type of numbers.
class OperandMemory {
 public:
  // As much as the largest of `points` needs, and at least what sixteen places of smaller ones do,
  // up to `memory` for those. Must outlive the operations on it.
  OperandMemory(Rank& rank, Stream& home, const std::vector<KernelPoint>& points, Bytes memory);

  Rank& rank() const { return rank_; }
  Stream& home() const { return home_; }
  Bytes memory() const { return memory_; }
  const Tensor& buffer(Dtype dtype, bool written) const { return buffers_.at({dtype, written}); }

 private:
  Rank& rank_;
  Stream& home_;
  const Bytes memory_;
  std::map<std::pair<Dtype, bool>, Tensor> buffers_;  // by type, and whether kernels write to it
};

// One kernel's part of it. As many places as fit into the memory, up to sixteen: what a kernel
// reads was last touched long ago. Tokens, which are of this kernel only, are spread over the
// vocabulary; counters are 1.
class PlacedOperands {
 public:
  PlacedOperands(const OperandMemory& memory, const Kernel& kernel);

  const Kernel& kernel() const { return kernel_; }
  // The slots; what call number `call` works on; what is bound.
  void declare(Sequence& sequence) const;
  std::vector<SlotView> views(int call) const;
  const std::vector<Operand>& bound() const { return bound_; }

 private:
  struct Part {
    int slot = -1;
    std::int64_t first = 0, elements = 0, stride = 0;  // stride: from one place to the next
  };
  Kernel kernel_;
  std::int64_t places_ = 1;
  std::vector<Part> parts_;     // by operand
  std::vector<Tensor> own_;     // that are no numbers to compute with
  std::vector<Operand> bound_;  // by slot
};

}  // namespace orrery
