// A stand-in for a GPU and for NCCL, on threads and host memory, behind the very functions of
// cuda_runtime_api.h and nccl.h that Orrery calls: what links against it is the code that runs on
// GPUs, unchanged. It keeps the rules that decide whether a program works:
//
// Streams run in order and beside each other; a call that enqueues on a full one blocks. Destroying
// a stream does not wait for what is on it; freeing memory outside stream order, and pinning any,
// waits for all streams of the GPU. A wait for an event that was never recorded does nothing. Fresh
// device memory holds NaNs from the point of its stream where it was allocated. Kernels are loaded
// eagerly where the environment says so.
//
// A communicator's operations match by order. Members that call different things, or different
// sizes, wait for ever. Collectives of one GPU run one after the other in the order in which they
// were launched, over all its communicators, which is the worst that NCCL may do (NVIDIA/nccl
// issues 195, 208, 1174). Sends are rendezvous; those in one group run beside each other. Two ranks
// on one GPU are refused. Communicators do not block, and a call on one that is in progress is
// refused. The first operation of a communicator is in progress until every member has called one.
//
// Sums fold from the left in rank order, in fp32: the arithmetic of reference_collectives.hpp, not
// NCCL's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

struct CUstream_st;

namespace orrery::cuda_double {

// GPUs that are present, for the next call on; 8 at first.
void set_gpus(int count);

// How much a stream holds that it has not begun, for the next call on; no limit at first. Who waits
// for room holds up every call that enqueues on that GPU, as the driver's do.
void set_queue_depth(std::size_t depth);
// Whether copies of all streams of a GPU wait for each other in the order in which they were
// enqueued, as on one copy engine, for the next call on; not at first.
void queue_copies(bool queue);
// Whether what a stream gives back may come again when the same stream next asks for as much, as
// from CUDA's pools, for the next call on; not at first, so that a late use is one of freed memory.
void reuse_memory(bool reuse);
// Graphs that were launched since the last call.
int graphs_launched();
// Streams so far that were destroyed with something still on them.
int streams_destroyed_busy();
// The most streams that there were at once since the last call.
std::size_t most_streams();

// Appends a function to a stream, which runs when the stream has come to it.
void append(CUstream_st* stream, std::function<void()> function);
int gpu_of(CUstream_st* stream);
// A word that streams write and wait for.
std::uint64_t word(const std::uint64_t* address);

// Plans of cuDNN that the calling thread has made, and how often it ran any.
struct Plans {
  int made = 0, run = 0;
};
Plans& plans_of_this_thread();

// Of communicators whose other members are in other processes: these take part in the first
// `operations` operations, in which nothing changes, and in none after. As NCCL behaves towards a
// rank that was killed: it waits.
void expect_absent_members(int operations);

}  // namespace orrery::cuda_double
