// The real world on GPUs: ranks are threads of this process, each with a GPU, or several with one.
//
// A rank's program enqueues on CUDA streams from its own threads; a watcher asks which operations
// are done, wakes whoever waits for them, and ends the run with a named error when a device or the
// transport reports one, or when nothing has moved for too long.
#pragma once

#include <functional>
#include <memory>

#include "backend/core/units.hpp"
#include "backend/cuda/launcher.hpp"
#include "backend/cuda/profiler.hpp"
#include "backend/transport/transport.hpp"
#include "backend/world.hpp"

namespace orrery::cuda {

// What joins the ranks of this process to those of others.
class Peers {
 public:
  // What the world does with a message for one of its ranks, when a process is lost, and when all
  // others have ended well, so that no message comes any more.
  struct Listener {
    std::function<void(int to, ControlMessage)> message;
    std::function<void(std::exception_ptr)> lost;
    std::function<void()> all_ended;
  };
  virtual ~Peers() = default;
  // Called before ranks run, and with empty functions when they have ended.
  virtual void listen(Listener listener) = 0;
  virtual void send(int to, const ControlMessage& message) = 0;
};

struct CudaOptions {
  std::function<int(int rank)> gpu;  // of a rank
  // Made on a thread whose current device is the rank's GPU.
  std::function<std::unique_ptr<transport::Transport>(int rank, transport::Waiting)> transport;
  std::function<std::unique_ptr<Launcher>(int gpu, std::function<void(std::exception_ptr)> failed)>
      launcher;
  Copy copy = copy_async;  // of tensors; launchers have theirs
  // When no operation of a rank ends for so long while some are under way, it is a deadlock.
  Seconds patience{600};
  // Commands that a stream has ahead of it before its host waits. CUDA takes 1,020 (H200, driver
  // 580.159.04), and who waits for room there holds what other threads' calls need: with several
  // ranks on one GPU also those that it waits for. A sequence of 250 kernels or more is beyond it.
  int queue = 800;
  std::function<Seconds()> clock;       // monotonic; empty: of this machine
  int first_rank = 0, ranks_here = -1;  // in this process; all by default
  Peers* peers = nullptr;               // needed where they are not all
  // Kernels of a sequence are timed one by one, with an event between any two, which takes time of
  // the GPU's own; else only all together.
  bool by_kernel = false;
  // Sequences that come again on the same operands are CUDA graphs from then on, unless they are
  // timed by kernel. For ranks with a GPU each: making a graph may wait for all that is on it.
  bool graphs = false;
  std::shared_ptr<Profiler> profiler;  // fills RankReport::native; null: none
};

// `options.bodies` run the kernels of Place::host streams. Values are always computed:
// Error{invalid_program} otherwise. Besides what other worlds throw: Error{unavailable} for a
// device or a transport that failed; Error{deadlock} also after CudaOptions::patience, with what
// every stream of the rank waits for.
std::unique_ptr<World> make_cuda_world(WorldOptions options, CudaOptions cuda);

}  // namespace orrery::cuda
