// The functions of nccl.h that the NCCL transport calls; see cuda_double.hpp.
#include <nccl.h>

#include <condition_variable>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backend/reference_collectives.hpp"
#include "tests/cuda/double/cuda_double.hpp"

namespace {

using namespace orrery;

std::mutex mutex;  // of all that is below
std::condition_variable changed;
int absent_operations = -1;  // below 0: there are no absent members
std::uint64_t next_id = 1;

// A collective that some members' streams have come to.
struct Meeting {
  int arrived = 0, left = 0;
  bool done = false, broken = false;
  Communication first;
  std::vector<View> inputs;
  std::vector<std::vector<std::byte>> results;
};

// A send or a receive that the other side's stream has not come to.
struct Transfer {
  View data;
  bool taken = false;
};

struct Group {
  int size = 0, joined = 0, started = 0;  // members that have called an operation
  std::vector<int> gpus;
  bool duplicate = false;
  std::map<std::uint64_t, Meeting> meetings;                   // by sequence number
  std::map<std::pair<int, int>, std::deque<Transfer*>> sends;  // by (from, to)
};
std::map<std::string, std::shared_ptr<Group>> groups;  // by unique identifier

std::map<int, std::list<std::uint64_t>> launched;  // by GPU: collectives, in order
std::uint64_t next_launch = 1;

}  // namespace

struct ncclComm {
  std::shared_ptr<Group> group;
  int rank = 0, gpu = 0;
  bool started = false, aborted = false;
  std::uint64_t issued = 0;  // collectives
  int operations = 0;        // all
};

namespace {

// Handles that have not been destroyed. Operations on streams keep theirs alive.
std::map<ncclComm*, std::shared_ptr<ncclComm>> handles;

bool members_are_absent(const Group& group) {
  return absent_operations >= 0 && group.joined < group.size;
}

ncclResult_t state_of(const ncclComm& comm) {
  const Group& group = *comm.group;
  if (group.duplicate) return ncclInvalidUsage;
  if (members_are_absent(group)) return ncclSuccess;
  if (group.joined < group.size) return ncclInProgress;
  return comm.started && group.started < group.size ? ncclInProgress : ncclSuccess;
}

struct Operation {
  std::shared_ptr<ncclComm> comm;
  cudaStream_t stream = nullptr;
  Communication what;  // kind, reduce, root, peer, elements, dtype
  View in, out;
  std::uint64_t sequence = 0, launch = 0;
  bool absent = false;  // the others take no part: nothing happens, or nothing ever does
  bool for_ever = false;
  Transfer transfer;  // of a send
  bool is_pair() const { return what.kind == Collective::send || what.kind == Collective::receive; }
};
thread_local int depth = 0;
thread_local std::vector<std::shared_ptr<Operation>> grouped;

using Lock = std::unique_lock<std::mutex>;

// Whether `condition` came true before the communicator was aborted.
template <class Condition>
bool await(Lock& lock, const ncclComm& comm, const Condition& condition) {
  changed.wait(lock, [&] { return comm.aborted || condition(); });
  return !comm.aborted;
}

void run_collective(Lock& lock, Operation& operation) {
  ncclComm& comm = *operation.comm;
  Group& group = *comm.group;
  auto& order = launched[comm.gpu];
  if (await(lock, comm, [&] { return order.front() == operation.launch; })) {
    Meeting& meeting = group.meetings[operation.sequence];
    const Communication& what = operation.what;
    if (meeting.arrived++ == 0) {
      meeting.first = what;
      meeting.inputs.resize(static_cast<std::size_t>(group.size));
    }
    const Communication& first = meeting.first;
    meeting.broken = meeting.broken || first.kind != what.kind || first.reduce != what.reduce ||
                     first.root != what.root || first.elements != what.elements ||
                     first.dtype != what.dtype;
    meeting.inputs[static_cast<std::size_t>(comm.rank)] = operation.in;
    if (meeting.arrived == group.size && !meeting.broken) {
      meeting.results = collective_result(meeting.first, meeting.inputs);
      meeting.done = true;
      changed.notify_all();
    }
    if (await(lock, comm, [&] { return meeting.done; })) {
      const auto bytes = result_for(meeting.first, meeting.results, comm.rank);
      std::memcpy(operation.out.data, bytes.data(), bytes.size());
      if (++meeting.left == group.size) group.meetings.erase(operation.sequence);
    }
  }
  order.remove(operation.launch);
  changed.notify_all();
}

// What one group of calls put on one stream: all sends are offered, then all receives taken.
void run(const std::vector<std::shared_ptr<Operation>>& operations) {
  Lock lock(mutex);
  const auto pairs = [&](Collective kind, const auto& action) {
    for (const auto& operation : operations) {
      ncclComm& comm = *operation->comm;
      if (operation->what.kind != kind || operation->absent) continue;
      const int peer = operation->what.peer, mine = comm.rank;
      action(*operation, comm.group->sends[kind == Collective::send ? std::pair{mine, peer}
                                                                    : std::pair{peer, mine}]);
    }
  };
  pairs(Collective::send, [](Operation& operation, auto& offered) {
    operation.transfer.data = operation.in;
    offered.push_back(&operation.transfer);
  });
  changed.notify_all();
  pairs(Collective::receive, [&](Operation& operation, auto& offered) {
    const auto there = [&] {
      return !offered.empty() && offered.front()->data.elements == operation.out.elements;
    };
    if (!await(lock, *operation.comm, there)) return;
    std::memcpy(operation.out.data, offered.front()->data.data,
                static_cast<std::size_t>(operation.out.elements));
    offered.front()->taken = true;
    offered.pop_front();
    changed.notify_all();
  });
  pairs(Collective::send, [&](Operation& operation, auto& offered) {
    if (!await(lock, *operation.comm, [&] { return operation.transfer.taken; }))
      std::erase(offered, &operation.transfer);
  });
  for (const auto& operation : operations) {
    if (operation->for_ever) await(lock, *operation->comm, [] { return false; });
    if (!operation->absent && !operation->is_pair()) run_collective(lock, *operation);
  }
}

ncclResult_t launch_group() {
  std::map<cudaStream_t, std::vector<std::shared_ptr<Operation>>> by_stream;
  for (auto& operation : grouped) by_stream[operation->stream].push_back(std::move(operation));
  grouped.clear();
  for (auto& [stream, operations] : by_stream)
    cuda_double::append(stream, [operations = std::move(operations)] { run(operations); });
  return ncclSuccess;
}

ncclResult_t call(ncclComm* comm, cudaStream_t stream, Collective kind, View in, View out,
                  Reduce reduce = Reduce::sum, int root_or_peer = 0) {
  auto operation = std::make_shared<Operation>();
  {
    const Lock lock(mutex);
    if (cuda_double::gpu_of(stream) != comm->gpu) return ncclInvalidUsage;
    // Calls of one group are one to NCCL.
    if (depth == 0 || grouped.empty())
      if (state_of(*comm) != ncclSuccess) return ncclInvalidUsage;
    if (!comm->started) {
      comm->started = true;
      ++comm->group->started;
    }
    operation->comm = handles.at(comm);
    operation->stream = stream;
    operation->what.kind = kind;
    operation->what.reduce = reduce;
    (operation->is_pair() ? operation->what.peer : operation->what.root) = root_or_peer;
    const View& counted = kind == Collective::reduce_scatter || in.data != nullptr ? in : out;
    operation->what.elements = counted.elements;
    if (kind == Collective::all_gather) operation->what.elements = out.elements;
    operation->what.dtype = counted.dtype;
    operation->in = in;
    operation->out = out;
    if (members_are_absent(*comm->group)) {
      operation->absent = true;
      operation->for_ever = comm->operations >= absent_operations;
    } else if (!operation->is_pair()) {
      operation->sequence = comm->issued++;
      operation->launch = next_launch++;
      launched[comm->gpu].push_back(operation->launch);
    }
    ++comm->operations;
  }
  grouped.push_back(std::move(operation));
  if (depth == 0) launch_group();
  const Lock lock(mutex);
  return state_of(*comm);
}

View view(const void* data, std::size_t count, ncclDataType_t type) {
  static const std::map<ncclDataType_t, Dtype> types{
      {ncclFloat32, Dtype::fp32}, {ncclBfloat16, Dtype::bf16}, {ncclFloat16, Dtype::fp16},
      {ncclFloat64, Dtype::fp64}, {ncclInt32, Dtype::int32},   {ncclInt64, Dtype::int64},
      {ncclUint8, Dtype::uint8}};
  return {const_cast<void*>(data), static_cast<std::int64_t>(count), types.at(type)};
}

Reduce reduce_of(ncclRedOp_t operation) {
  return operation == ncclSum ? Reduce::sum : operation == ncclAvg ? Reduce::mean : Reduce::max;
}

}  // namespace

namespace orrery::cuda_double {
void expect_absent_members(int operations) { absent_operations = operations; }
}  // namespace orrery::cuda_double

extern "C" {

const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclInvalidUsage ? "invalid usage" : "an error of the double";
}
const char* ncclGetLastError(ncclComm_t comm) {
  const Lock lock(mutex);
  return comm != nullptr && comm->group->duplicate ? "Duplicate GPU detected" : "";
}
ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const Lock lock(mutex);
  std::memset(id->internal, 0, sizeof id->internal);
  std::memcpy(id->internal, &next_id, sizeof next_id);
  ++next_id;
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (config->blocking != 0) return ncclInvalidArgument;  // the transport never asks for it
  int gpu = 0;
  cudaGetDevice(&gpu);
  const Lock lock(mutex);
  auto& group = groups[std::string(id.internal, sizeof id.internal)];
  if (group == nullptr) group = std::make_shared<Group>();
  group->size = size;
  ++group->joined;
  for (const int other : group->gpus) group->duplicate = group->duplicate || other == gpu;
  group->gpus.push_back(gpu);
  const auto fresh = std::make_shared<ncclComm>();
  fresh->group = group;
  fresh->rank = rank;
  fresh->gpu = gpu;
  *comm = fresh.get();
  handles[*comm] = fresh;
  return state_of(**comm);
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  const Lock lock(mutex);
  *state = state_of(*comm);
  return ncclSuccess;
}
ncclResult_t ncclCommFinalize(ncclComm_t) { return ncclSuccess; }
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  const Lock lock(mutex);
  comm->aborted = true;
  changed.notify_all();
  handles.erase(comm);
  return ncclSuccess;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) { return ncclCommAbort(comm); }

ncclResult_t ncclGroupStart() {
  ++depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() { return --depth == 0 ? launch_group() : ncclSuccess; }

ncclResult_t ncclAllReduce(const void* in, void* out, std::size_t count, ncclDataType_t type,
                           ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, Collective::all_reduce, view(in, count, type), view(out, count, type),
              reduce_of(operation));
}
ncclResult_t ncclReduceScatter(const void* in, void* out, std::size_t count, ncclDataType_t type,
                               ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
  const auto size = static_cast<std::size_t>(comm->group->size);
  return call(comm, stream, Collective::reduce_scatter, view(in, count * size, type),
              view(out, count, type), reduce_of(operation));
}
ncclResult_t ncclAllGather(const void* in, void* out, std::size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  const auto size = static_cast<std::size_t>(comm->group->size);
  return call(comm, stream, Collective::all_gather, view(in, count, type),
              view(out, count * size, type));
}
ncclResult_t ncclBroadcast(const void* in, void* out, std::size_t count, ncclDataType_t type,
                           int root, ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, Collective::broadcast, view(in, count, type), view(out, count, type),
              Reduce::sum, root);
}
ncclResult_t ncclSend(const void* in, std::size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, Collective::send, view(in, count, type), {}, Reduce::sum, peer);
}
ncclResult_t ncclRecv(void* out, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return call(comm, stream, Collective::receive, {}, view(out, count, type), Reduce::sum, peer);
}

}  // extern "C"
