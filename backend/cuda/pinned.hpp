// Pinned memory of the host, for all ranks of a process.
//
// Pinning may wait for every stream of a GPU, or hold up what is enqueued behind it (CUDA C++
// Programming Guide, "Implicit Synchronization"), and ranks on one GPU wait for each other by
// streams. So it is done before ranks run, and blocks are cut from what was pinned then.
#pragma once

#include <cstddef>

namespace orrery::cuda {

// Pins enough for the batches, scalars and small operands of a usual run. Called before ranks run;
// does nothing from the second call on.
void reserve_pinned_memory();

// 64-byte aligned. From what was reserved; pins more where that does not do, as for tensors of
// many MiB in host memory.
void* take_pinned(std::size_t bytes);
// Kept for the next that takes as much; nothing is unpinned before the process ends.
void give_back_pinned(void* block);

}  // namespace orrery::cuda
