// Counts as real numbers, for formulas that mix both.
#pragma once

#include <concepts>

namespace orrery {

constexpr double real(std::integral auto count) { return static_cast<double>(count); }

}  // namespace orrery
