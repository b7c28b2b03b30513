// Communication between ranks of one process on one GPU, which NCCL refuses, so that any number of
// ranks runs on one.
//
// An operation is a meeting in device memory. A rank's stream writes that it has come, and waits
// for the word that the operation is over. When all members have issued it, a stream of the
// communicator's own waits for all of them, carries the operation out in rank order, and writes
// that word. So it starts when the last member has come and ends for all at once, as in the CPU's
// world, and no host waits. (A stream that waits for a CUDA event which was never recorded does not
// wait; words in memory have no such hole.)
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "backend/throttle.hpp"
#include "backend/transport/transport.hpp"

namespace orrery::cuda {

// What is done on a GPU at a meeting.
struct LocalWork {
  // Enqueues the operation: what backend/reference_collectives.hpp says for these inputs, by part.
  // A part without an output has an empty view. Where the word at `stop`, in device memory, is not
  // 0 when its turn comes, the run has failed and the views may be gone: nothing must be touched.
  std::function<void(transport::DeviceStream, const std::uint64_t* stop, const Communication&,
                     std::span<const View> inputs, std::span<const View> outputs)>
      carry_out;
  // Enqueues a wait of that length: links as slow as a cluster's. Needed with a throttle.
  std::function<void(transport::DeviceStream, Time)> delay;
};

// What the ranks on one GPU share; made on a thread whose current device that is. It must outlive
// their transports. Error{unavailable} where the driver has no stream memory operations or loads
// kernels lazily; and, from a rank's stream or channel on, where the streams of the ranks and of
// their channels are more than the GPU's hardware queues (environment.hpp).
class LocalHub {
 public:
  LocalHub(LocalWork work, std::optional<Throttle> throttle);
  ~LocalHub();
  std::unique_ptr<transport::Transport> transport_of(int rank, transport::Waiting waiting);

 private:
  friend class LocalTransport;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace orrery::cuda
