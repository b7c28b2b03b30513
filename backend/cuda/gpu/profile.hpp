// Each kernel's own time, as the GPU's clock has it: by CUPTI, which launches get slower by.
#pragma once

#include <memory>

#include "backend/cuda/profiler.hpp"

namespace orrery::cuda {

// One at a time in a process. Error{unavailable} where CUPTI is not found, was not there to build
// with, or refuses (a driver may keep it for administrators, or another tool holds it).
std::unique_ptr<Profiler> make_cupti_profiler();

}  // namespace orrery::cuda
