// How much tests do. Sanitizers look at the code that a test goes through, are an order of
// magnitude slower, and see as much in a few steps.
#pragma once

#include <cstdint>

#include "sim/simgrid/engine.hpp"

namespace orrery {

inline constexpr bool under_sanitizer = sim::actors_are_threads;
// Of a training whose losses are compared; of 50 it is expected that the loss falls.
inline constexpr std::int64_t usual_steps = under_sanitizer ? 6 : 50;

}  // namespace orrery
