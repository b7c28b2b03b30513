// What launches kernels on a stream of a GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <span>

#include "backend/kernel.hpp"

struct CUstream_st;

namespace orrery::cuda {

// Enqueues a copy between any two places that the GPU reaches: its memory and pinned memory.
using Copy =
    std::function<void(CUstream_st* stream, void* to, const void* from, std::size_t bytes)>;
// cudaMemcpyAsync: between a GPU and its host, on a copy engine.
void copy_async(CUstream_st* stream, void* to, const void* from, std::size_t bytes);

// Of one rank; called by its program, one call at a time.
class Launcher {
 public:
  virtual ~Launcher() = default;
  // What launching it needs once: choosing among algorithms, loading code. Loading may wait for
  // every stream of the GPU, and one may wait for a rank that loads: so before ranks communicate.
  virtual void prepare(const Kernel&) {}
  // The same for what each rank needs of its own, and for what depends on the operands: they will
  // have so many elements of the kernel's type, none where left empty. Enqueues on `stream` only.
  virtual void rehearse(CUstream_st* /*stream*/, const Kernel&,
                        std::span<const std::int64_t> /*elements*/) {}
  // Enqueues the kernel; views are in device memory, empty ones have null data. `kernel` lives as
  // long as the world. Error{invalid_program} for what has no values, Error{unavailable} for what
  // this device cannot do.
  virtual void launch(CUstream_st* stream, const Kernel& kernel, std::span<const View> views) = 0;
};

// Runs bodies as functions of the host in stream order, for operands in host memory: streams of
// Place::host. `failed` is told what a body throws, on a thread of the driver.
std::unique_ptr<Launcher> make_host_launcher(const KernelBodies& bodies,
                                             std::function<void(std::exception_ptr)> failed);

// The same for operands in the memory of a GPU: on copies of them in pinned memory, all in stream
// order. For kernels that have no other form, as a program's own.
std::unique_ptr<Launcher> make_staged_launcher(const KernelBodies& bodies,
                                               std::function<void(std::exception_ptr)> failed,
                                               Copy copy = copy_async);

}  // namespace orrery::cuda
