// How ranks on GPUs communicate: what a CUDA device asks of NCCL, or of another way.
#pragma once

#include <functional>
#include <span>

#include "backend/channel.hpp"
#include "backend/core/units.hpp"
#include "backend/kernel.hpp"

struct CUstream_st;

namespace orrery::transport {

using DeviceStream = CUstream_st*;  // a cudaStream_t, for those that do not include CUDA

// For calls that wait for other ranks on the host. `check` throws when the run has failed, so that
// nothing waits for a rank that is gone.
struct Waiting {
  std::function<void()> check;
  Seconds patience{600};           // with no progress for so long, it is a deadlock
  std::function<Seconds()> clock;  // of this host, monotonic
};

// Of one rank. All but `failure` and `abort` are called by the rank's program, one at a time.
class Transport {
 public:
  virtual ~Transport() = default;

  // The rank is about to make one more stream. Error{unavailable} where its GPU has no room for it.
  virtual void stream_opened() {}

  // Makes the communicators that this rank is a member of ready, and runs an operation on each, so
  // that none of the program's has connections to set up. Every member does so once; the order is
  // the same on all ranks whatever the order given. Blocks until the others have. Throws
  // Error{unavailable} where the library refuses, Error{deadlock} after Waiting::patience.
  virtual void open(std::vector<const Communicator*> communicators) = 0;

  // Enqueues an operation of one of them on `stream`. The views are those of the communication's
  // operands, in device memory.
  virtual void issue(DeviceStream stream, const Communication& communication, const View& in,
                     const View& out) = 0;

  // The end of a run that went well, after all operations are done: gives everything back.
  virtual void close() = 0;

  // From any thread. Whether an operation has failed since, on this side: an Error, or null.
  virtual std::exception_ptr failure() = 0;
  // Ends what is in flight and makes every other call throw.
  virtual void abort() noexcept = 0;
};

// One communicator's name in all processes: its group, lane and members.
std::string key_of(const Communicator& communicator);

}  // namespace orrery::transport
