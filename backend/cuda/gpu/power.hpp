// What NVML says of a GPU's power, where it is installed.
#pragma once

#include <optional>

#include "backend/core/units.hpp"

namespace orrery::cuda {

struct Power {
  Watts now;    // drawn at this moment
  Watts limit;  // that is enforced
};

// Null where NVML (libnvidia-ml.so.1) is not found, or does not tell.
std::optional<Power> power_of(int gpu);

}  // namespace orrery::cuda
