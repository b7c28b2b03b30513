// Communication by NCCL 2.28: a communicator per channel.
//
// Communicators do not block: a call that NCCL has not finished is asked about again until it has,
// so that a member that never comes ends as an error, not as a hang. Members of a communicator must
// have GPUs of their own; NCCL refuses two ranks on one.
//
// All members must issue the collectives of a GPU's communicators in one order (NVIDIA/nccl issues
// 195, 208, 1174). Within a process the interface checks that at issue; between processes a
// crossing ends by Waiting::patience.
#pragma once

#include <memory>

#include "backend/transport/store.hpp"
#include "backend/transport/transport.hpp"

namespace orrery::transport {

// Of global rank `rank`, on the CUDA device that is current for the calling thread now. The store
// must outlive it.
std::unique_ptr<Transport> make_nccl_transport(int rank, Store& store, Waiting waiting);

}  // namespace orrery::transport
