// The clock by which a calibration keeps to its time.
#pragma once

#include <chrono>

namespace orrery {

using Monotonic = std::chrono::steady_clock;

inline double seconds_since(Monotonic::time_point from) {
  return std::chrono::duration<double>(Monotonic::now() - from).count();
}

}  // namespace orrery
