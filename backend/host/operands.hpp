// From what an operation was given to what a kernel is given.
#pragma once

#include <array>
#include <span>

#include "backend/kernel.hpp"
#include "backend/prepared.hpp"
#include "backend/tensor.hpp"

namespace orrery::host {

// Null data in a run without values; an operand left empty has no elements either.
inline View view_of(const Operand& operand) {
  if (!operand) return {};
  View view{nullptr, operand.elements(), operand.storage->dtype};
  if (operand.storage->data != nullptr)
    view.data = static_cast<std::byte*>(operand.storage->data) +
                bytes_of(operand.begin, operand.storage->dtype).value;
  return view;
}

// Calls `run(kernel, views)` for each step of a sequence whose operands are bound to `slots`.
template <class Run>
void for_each_step(const Sequence& sequence, std::span<const View> slots, const Run& run) {
  std::array<View, max_operands> views;
  for (const Sequence::Step& step : sequence.steps()) {
    for (std::size_t i = 0; i < step.operands.size(); ++i) {
      const SlotView& part = step.operands[i];
      views[i] = {};
      if (part.slot < 0) continue;
      const View& slot = slots[static_cast<std::size_t>(part.slot)];
      if (slot.elements == 0) continue;  // left empty
      views[i] = {nullptr, part.elements, slot.dtype};
      if (slot.data != nullptr)
        views[i].data = static_cast<std::byte*>(slot.data) + bytes_of(part.begin, slot.dtype).value;
    }
    run(step.kernel.kernel->kernel, std::span<const View>(views.data(), step.operands.size()));
  }
}

}  // namespace orrery::host
