// What belongs to one parameter of a replica whose parameters and gradients are whole.
#pragma once

#include <string>

#include "algorithms/replica.hpp"

namespace orrery {

inline Tensor value_of(Replica& replica, const Parameter& p) {
  return replica.flat().all_values().slice(p.begin, p.begin + p.elements);
}

inline Tensor gradient_of(Replica& replica, const Parameter& p) {
  return replica.flat().all_gradients().slice(p.begin, p.begin + p.elements);
}

// "block.3.weight"
inline std::string name_of(const Parameter& p) {
  return "block." + std::to_string(p.block) + "." + std::string(p.name);
}

}  // namespace orrery
