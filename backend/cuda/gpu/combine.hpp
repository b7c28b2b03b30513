// What ranks on one GPU do at their meetings.
#pragma once

#include "backend/cuda/launcher.hpp"
#include "backend/cuda/local_transport.hpp"

namespace orrery::cuda {

// Kernels that fold from the left in rank order, in fp32 (wider types in their own), rounded once:
// the bits of backend/reference_collectives.hpp. At most 16 ranks take part in one operation:
// Error{unavailable} for more.
LocalWork gpu_local_work();

// A copy as a kernel. Ranks on one GPU copy by it: streams share the queues of the copy engines, so
// that a copy there which waits for a rank may hold up one of that rank's own.
void copy_by_kernel(CUstream_st* stream, void* to, const void* from, std::size_t bytes);

}  // namespace orrery::cuda
