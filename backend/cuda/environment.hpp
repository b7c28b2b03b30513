// What CUDA reads from the environment when a process first calls it.
#pragma once

namespace orrery::cuda {

// Before the process's first call of CUDA: sets CUDA_DEVICE_MAX_CONNECTIONS=32 and
// CUDA_MODULE_LOADING=EAGER where a user has not set them. Streams in one hardware queue hold each
// other up, and a kernel that is loaded when it is first launched may wait for all streams of its
// GPU: both end in a deadlock where streams wait for other ranks.
void prepare_environment();

// Hardware queues of a GPU: CUDA_DEVICE_MAX_CONNECTIONS, from 1 to 32; 8 where it is not set.
int hardware_queues();

}  // namespace orrery::cuda
