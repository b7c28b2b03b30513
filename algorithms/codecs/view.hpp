// A kernel body's operands as spans; empty for an operand that was left empty.
#pragma once

#include <cstddef>
#include <span>

#include "backend/kernel.hpp"

namespace orrery {

inline std::span<float> floats(const View& view) {
  if (view.data == nullptr) return {};
  return {static_cast<float*>(view.data), static_cast<std::size_t>(view.elements)};
}
inline std::span<std::byte> bytes(const View& view) {
  if (view.data == nullptr) return {};
  return {static_cast<std::byte*>(view.data), static_cast<std::size_t>(view.elements)};
}

}  // namespace orrery
