// What ranks on one GPU do at their meetings.
#pragma once

#include "backend/cuda/local_transport.hpp"

namespace orrery::cuda {

// Kernels that fold from the left in rank order, in fp32 (wider types in their own), rounded once:
// the bits of backend/reference_collectives.hpp. At most 16 ranks take part in one operation:
// Error{unavailable} for more.
LocalWork gpu_local_work();

}  // namespace orrery::cuda
