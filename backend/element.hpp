// Single numbers of a kernel's operand, whatever their type.
#pragma once

#include <cstdint>

#include "backend/kernel.hpp"

namespace orrery {

// As a double, in which 64-bit integers beyond 2^53 lose bits. Error{invalid_program} for fp4,
// which has no values.
double element_of(const View& view, std::int64_t i);
// Rounded once to the operand's type; to integers, to the nearest (ties to even).
void set_element(const View& view, std::int64_t i, double value);

}  // namespace orrery
