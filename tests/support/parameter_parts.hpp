// What belongs to one parameter where parameters and gradients are whole.
#pragma once

#include <string>

#include "algorithms/flat_parameters.hpp"

namespace orrery {

inline Tensor value_of(const FlatParameters& flat, const Parameter& p) {
  return flat.all_values().slice(p.begin, p.begin + p.elements);
}

inline Tensor gradient_of(const FlatParameters& flat, const Parameter& p) {
  return flat.all_gradients().slice(p.begin, p.begin + p.elements);
}

// "block.3.weight"
inline std::string name_of(const Parameter& p) {
  return "block." + std::to_string(p.block) + "." + std::string(p.name);
}

}  // namespace orrery
