// The functions of nccl.h that the transport calls, passed on to the library once it is found.
#include <nccl.h>

#include "backend/cuda/gpu/libraries.hpp"

namespace {

template <class Function>
Function* find(const char* name) {
  static const orrery::cuda::Library library("libnccl.so.2");
  return reinterpret_cast<Function*>(library.function(name));
}

}  // namespace

#define ORRERY_PASS_ON(result, name, parameters, arguments)       \
  result name parameters {                                        \
    static auto* const function = find<result parameters>(#name); \
    return function arguments;                                    \
  }

extern "C" {

ORRERY_PASS_ON(const char*, ncclGetErrorString, (ncclResult_t result), (result))
ORRERY_PASS_ON(const char*, ncclGetLastError, (ncclComm_t comm), (comm))
ORRERY_PASS_ON(ncclResult_t, ncclGetVersion, (int* version), (version))
ORRERY_PASS_ON(ncclResult_t, ncclGetUniqueId, (ncclUniqueId * id), (id))
ORRERY_PASS_ON(ncclResult_t, ncclCommInitRankConfig,
               (ncclComm_t * comm, int size, ncclUniqueId id, int rank, ncclConfig_t* config),
               (comm, size, id, rank, config))
ORRERY_PASS_ON(ncclResult_t, ncclCommGetAsyncError, (ncclComm_t comm, ncclResult_t* state),
               (comm, state))
ORRERY_PASS_ON(ncclResult_t, ncclCommFinalize, (ncclComm_t comm), (comm))
ORRERY_PASS_ON(ncclResult_t, ncclCommDestroy, (ncclComm_t comm), (comm))
ORRERY_PASS_ON(ncclResult_t, ncclCommAbort, (ncclComm_t comm), (comm))
ORRERY_PASS_ON(ncclResult_t, ncclGroupStart, (), ())
ORRERY_PASS_ON(ncclResult_t, ncclGroupEnd, (), ())
ORRERY_PASS_ON(ncclResult_t, ncclAllReduce,
               (const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                ncclComm_t comm, cudaStream_t stream),
               (in, out, count, type, op, comm, stream))
ORRERY_PASS_ON(ncclResult_t, ncclReduceScatter,
               (const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                ncclComm_t comm, cudaStream_t stream),
               (in, out, count, type, op, comm, stream))
ORRERY_PASS_ON(ncclResult_t, ncclAllGather,
               (const void* in, void* out, size_t count, ncclDataType_t type, ncclComm_t comm,
                cudaStream_t stream),
               (in, out, count, type, comm, stream))
ORRERY_PASS_ON(ncclResult_t, ncclBroadcast,
               (const void* in, void* out, size_t count, ncclDataType_t type, int root,
                ncclComm_t comm, cudaStream_t stream),
               (in, out, count, type, root, comm, stream))
ORRERY_PASS_ON(ncclResult_t, ncclSend,
               (const void* in, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                cudaStream_t stream),
               (in, count, type, peer, comm, stream))
ORRERY_PASS_ON(ncclResult_t, ncclRecv,
               (void* out, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                cudaStream_t stream),
               (out, count, type, peer, comm, stream))

}  // extern "C"
