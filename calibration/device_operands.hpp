// The operands of one kernel in a device's memory, at several places.
#pragma once

#include <vector>

#include "backend/rank.hpp"

namespace orrery {

// As many places as fit into `memory`, up to sixteen: what a kernel reads was last touched long
// ago. Types that compute hold normal numbers, which cost a device as much power as training's;
// tokens are 0, counters 1. Lives as long as the operations on it.
class PlacedOperands {
 public:
  PlacedOperands(Rank& rank, Stream& home, const Kernel& kernel, Bytes memory);

  const Kernel& kernel() const { return kernel_; }
  // A slot per operand that is not left empty; what call number `call` works on; what is bound.
  void declare(Sequence& sequence) const;
  std::vector<SlotView> views(int call) const;
  const std::vector<Operand>& bound() const { return bound_; }

 private:
  struct Part {
    int slot = -1;
    std::int64_t elements = 0, stride = 0;  // stride: from one place to the next
  };
  Kernel kernel_;
  std::int64_t places_ = 1;
  std::vector<Part> parts_;  // by operand
  std::vector<Tensor> tensors_;
  std::vector<Operand> bound_;
};

}  // namespace orrery
