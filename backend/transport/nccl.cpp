#include "backend/transport/nccl.hpp"

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "backend/core/error.hpp"

namespace orrery::transport {

namespace {

ncclDataType_t type_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::fp32:
      return ncclFloat32;
    case Dtype::bf16:
      return ncclBfloat16;
    case Dtype::fp16:
      return ncclFloat16;
    case Dtype::fp64:
      return ncclFloat64;
    case Dtype::int32:
      return ncclInt32;
    case Dtype::int64:
      return ncclInt64;
    case Dtype::uint8:
    case Dtype::fp8:
    case Dtype::fp4:
      break;
  }
  throw Error(Category::invalid_program,
              std::string("a reduction of ") + name(dtype) + " is not defined");
}

ncclRedOp_t operation_of(Reduce reduce) {
  switch (reduce) {
    case Reduce::sum:
      return ncclSum;
    case Reduce::mean:
      return ncclAvg;
    case Reduce::max:
      break;
  }
  return ncclMax;
}

std::size_t bytes_in(const View& view) {
  return static_cast<std::size_t>(bytes_of(view.elements, view.dtype).value);
}

std::byte* at(const View& view, std::size_t byte) {
  return static_cast<std::byte*>(view.data) + byte;
}

class NcclTransport final : public Transport {
 public:
  NcclTransport(int rank, Store& store, Waiting waiting)
      : rank_(rank), store_(store), waiting_(std::move(waiting)) {
    cuda(cudaGetDevice(&gpu_), "cudaGetDevice");
  }
  ~NcclTransport() override {
    abort();
    if (warm_stream_ != nullptr) {
      cudaStreamSynchronize(warm_stream_);  // destroying it would not wait
      cudaStreamDestroy(warm_stream_);
    }
    if (warm_data_ != nullptr) cudaFree(warm_data_);
  }

  void open(std::vector<const Communicator*> communicators) override;
  void issue(DeviceStream stream, const Communication& c, const View& in, const View& out) override;
  void close() override;
  std::exception_ptr failure() override;
  void abort() noexcept override;

 private:
  void connect(const Communicator& communicator);
  void warm(const Communicator& communicator);
  ncclUniqueId unique_id(const std::string& key, bool mine_to_make);
  void enqueue(DeviceStream stream, const Communication& c, const View& in, const View& out,
               ncclComm_t handle);
  void cuda(cudaError_t result, const char* call) const;
  void nccl(ncclResult_t result, const std::string& what, ncclComm_t handle = nullptr) const;
  template <class Done>
  void until(const Done& done, const std::string& what) const;
  void settle(ncclComm_t handle, const std::string& what);
  int index_in(const Communicator& communicator) const;
  void throw_if_aborted(const std::string& what);
  std::map<const Communicator*, ncclComm_t> all_open();

  const int rank_;
  Store& store_;
  const Waiting waiting_;
  int gpu_ = 0;
  cudaStream_t warm_stream_ = nullptr;
  void* warm_data_ = nullptr;
  // Held while NCCL is in a call: an abort must not free a communicator under one, unless the call
  // is stuck. Taken before mutex_, which is held for bookkeeping only.
  std::timed_mutex calls_;
  std::mutex mutex_;  // of all below
  bool aborted_ = false;
  std::map<const Communicator*, ncclComm_t> open_;
};

void NcclTransport::cuda(cudaError_t result, const char* call) const {
  if (result == cudaSuccess) return;
  throw Error(Category::unavailable, std::string(call) + ": " + cudaGetErrorString(result))
      .with("rank", std::to_string(rank_))
      .with("gpu", std::to_string(gpu_));
}

void NcclTransport::nccl(ncclResult_t result, const std::string& what, ncclComm_t handle) const {
  if (result == ncclSuccess || result == ncclInProgress) return;
  Error error(Category::unavailable, what + ": NCCL: " + ncclGetErrorString(result));
  if (const char* last = ncclGetLastError(handle); last != nullptr && *last != '\0')
    error.with("NCCL says", last);
  throw error.with("rank", std::to_string(rank_)).with("gpu", std::to_string(gpu_));
}

template <class Done>
void NcclTransport::until(const Done& done, const std::string& what) const {
  const Seconds start = waiting_.clock();
  while (!done()) {
    waiting_.check();
    if ((waiting_.clock() - start).value > waiting_.patience.value)
      throw Error(Category::deadlock,
                  what + ": not all members came to it within " +
                      std::to_string(static_cast<long>(waiting_.patience.value)) + " s")
          .with("rank", std::to_string(rank_));
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

// Until NCCL has finished the last call on a communicator.
void NcclTransport::settle(ncclComm_t handle, const std::string& what) {
  const auto settled = [&] {
    const std::lock_guard lock(calls_);
    throw_if_aborted(what);
    ncclResult_t state = ncclSuccess;
    nccl(ncclCommGetAsyncError(handle, &state), what, handle);
    nccl(state, what, handle);
    return state != ncclInProgress;
  };
  if (!settled()) until(settled, what);
}

Error aborted(const std::string& what) {
  return Error(Category::unavailable, what + ": communication was aborted");
}

void NcclTransport::throw_if_aborted(const std::string& what) {
  const std::lock_guard lock(mutex_);
  if (aborted_) throw aborted(what);
}

std::map<const Communicator*, ncclComm_t> NcclTransport::all_open() {
  const std::lock_guard lock(mutex_);
  return open_;
}

int NcclTransport::index_in(const Communicator& communicator) const {
  const std::vector<int>& members = communicator.members();
  return static_cast<int>(std::find(members.begin(), members.end(), rank_) - members.begin());
}

ncclUniqueId NcclTransport::unique_id(const std::string& key, bool mine_to_make) {
  ncclUniqueId id;
  if (mine_to_make) {
    nccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
    store_.set(key, std::string(id.internal, sizeof id.internal));
    return id;
  }
  std::optional<std::string> found;
  until([&] { return (found = store_.find(key)).has_value(); }, "the start of channel " + key);
  ORRERY_ASSERT(found->size() == sizeof id.internal, "an identifier of NCCL");
  std::memcpy(id.internal, found->data(), sizeof id.internal);
  return id;
}

void NcclTransport::connect(const Communicator& communicator) {
  const std::string key = key_of(communicator);
  const int index = index_in(communicator), size = communicator.size();
  if (std::count(communicator.members().begin(), communicator.members().end(), rank_) > 1)
    throw Error(Category::unavailable,
                "channel " + communicator.name() + " leads from a rank to itself, as NCCL cannot");
  const ncclUniqueId id = unique_id(key, index == 0);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  ncclComm_t handle = nullptr;
  {
    const std::lock_guard lock(calls_);
    throw_if_aborted("opening channel " + key);
    const ncclResult_t result = ncclCommInitRankConfig(&handle, size, id, index, &config);
    if (handle != nullptr) {
      const std::lock_guard guard(mutex_);
      open_[&communicator] = handle;
    }
    nccl(result, "opening channel " + key, handle);
  }
  settle(handle, "opening channel " + key);
}

// One small operation, of the kind that the channel is for.
void NcclTransport::warm(const Communicator& communicator) {
  const View data{warm_data_, 1, Dtype::fp32};
  Communication c;
  c.communicator = const_cast<Communicator*>(&communicator);
  c.member = index_in(communicator);
  c.reduce = Reduce::sum;
  c.dtype = Dtype::fp32;
  c.elements = 1;
  if (communicator.edge()) {
    c.kind = c.member == 0 ? Collective::send : Collective::receive;
    c.peer = 1 - c.member;
  }
  issue(warm_stream_, c, data, data);
  until(
      [&] {
        const cudaError_t state = cudaStreamQuery(warm_stream_);
        if (state != cudaErrorNotReady) cuda(state, "cudaStreamQuery");
        return state == cudaSuccess;
      },
      "the first operation on channel " + key_of(communicator));
}

void NcclTransport::open(std::vector<const Communicator*> communicators) {
  std::erase_if(communicators, [known = all_open()](const Communicator* c) {
    return (c->size() == 1 && !c->edge()) || known.contains(c);
  });
  std::sort(communicators.begin(), communicators.end(),
            [](const Communicator* a, const Communicator* b) { return key_of(*a) < key_of(*b); });
  communicators.erase(std::unique(communicators.begin(), communicators.end()), communicators.end());
  if (warm_stream_ == nullptr) {
    cuda(cudaStreamCreateWithFlags(&warm_stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    cuda(cudaMalloc(&warm_data_, sizeof(float)), "cudaMalloc");
    cuda(cudaMemsetAsync(warm_data_, 0, sizeof(float), warm_stream_), "cudaMemsetAsync");
  }
  for (const Communicator* communicator : communicators) {
    connect(*communicator);
    warm(*communicator);
  }
}

void NcclTransport::issue(DeviceStream stream, const Communication& c, const View& in,
                          const View& out) {
  const Communicator& communicator = *c.communicator;
  if (communicator.size() == 1 && !communicator.edge()) {  // nobody to communicate with
    if (in.data != out.data)
      cuda(cudaMemcpyAsync(out.data, in.data, bytes_in(in), cudaMemcpyDeviceToDevice, stream),
           "cudaMemcpyAsync");
    return;
  }
  const std::string what = std::string(orrery::name(c.kind)) + " on " + communicator.name();
  ncclComm_t handle = nullptr;
  {
    const std::lock_guard lock(calls_);
    {
      const std::lock_guard guard(mutex_);
      if (aborted_) throw aborted(what);
      const auto found = open_.find(&communicator);
      ORRERY_ASSERT(found != open_.end(), "channels are opened before they are used");
      handle = found->second;
    }
    enqueue(stream, c, in, out, handle);
  }
  settle(handle, what);
}

void NcclTransport::enqueue(DeviceStream stream, const Communication& c, const View& in,
                            const View& out, ncclComm_t handle) {
  const std::string what = std::string(orrery::name(c.kind)) + " on " + c.communicator->name();
  const auto ok = [&](ncclResult_t result) { nccl(result, what, handle); };
  const auto count = [](const View& view) { return static_cast<std::size_t>(view.elements); };
  const auto size = static_cast<std::size_t>(c.communicator->size());
  switch (c.kind) {
    case Collective::all_reduce:
      return ok(ncclAllReduce(in.data, out.data, count(in), type_of(in.dtype),
                              operation_of(c.reduce), handle, stream));
    case Collective::reduce_scatter:
      return ok(ncclReduceScatter(in.data, out.data, count(out), type_of(in.dtype),
                                  operation_of(c.reduce), handle, stream));
    case Collective::all_gather:
      return ok(ncclAllGather(in.data, out.data, bytes_in(in), ncclUint8, handle, stream));
    case Collective::broadcast:
      return ok(ncclBroadcast(in.data, out.data, bytes_in(in), ncclUint8, c.root, handle, stream));
    case Collective::send:
      return ok(ncclSend(in.data, bytes_in(in), ncclUint8, c.peer, handle, stream));
    case Collective::receive:
      return ok(ncclRecv(out.data, bytes_in(out), ncclUint8, c.peer, handle, stream));
    case Collective::exchange:
      ok(ncclGroupStart());
      ok(ncclSend(in.data, bytes_in(in), ncclUint8, c.peer, handle, stream));
      ok(ncclRecv(out.data, bytes_in(out), ncclUint8, c.peer, handle, stream));
      return ok(ncclGroupEnd());
    case Collective::all_to_all:
      ok(ncclGroupStart());
      for (std::size_t i = 0, part = bytes_in(in) / size; i < size; ++i) {
        ok(ncclSend(at(in, i * part), part, ncclUint8, static_cast<int>(i), handle, stream));
        ok(ncclRecv(at(out, i * part), part, ncclUint8, static_cast<int>(i), handle, stream));
      }
      return ok(ncclGroupEnd());
  }
}

void NcclTransport::close() {
  for (const auto& [communicator, handle] : all_open()) {
    {
      const std::lock_guard lock(calls_);
      throw_if_aborted("closing channel " + communicator->name());
      nccl(ncclCommFinalize(handle), "closing channel " + communicator->name(), handle);
    }
    settle(handle, "closing channel " + communicator->name());
  }
  const std::lock_guard lock(calls_);
  std::map<const Communicator*, ncclComm_t> all;
  {  // whoever takes them out of open_ ends them: this, or abort()
    const std::lock_guard guard(mutex_);
    if (aborted_) throw aborted("closing channels");
    all.swap(open_);
  }
  for (const auto& [communicator, handle] : all) ncclCommDestroy(handle);
}

std::exception_ptr NcclTransport::failure() {
  const std::unique_lock lock(calls_, std::try_to_lock);
  if (!lock.owns_lock()) return nullptr;
  for (const auto& [communicator, handle] : all_open()) {
    ncclResult_t state = ncclSuccess;
    try {
      nccl(ncclCommGetAsyncError(handle, &state), "channel " + communicator->name(), handle);
      nccl(state, "channel " + communicator->name(), handle);
    } catch (...) {
      return std::current_exception();
    }
  }
  return nullptr;
}

// A call that does not return waits for room in the queue of a stream, which only the abort makes;
// NCCL allows it from another thread.
void NcclTransport::abort() noexcept {
  std::map<const Communicator*, ncclComm_t> all;
  {
    const std::lock_guard guard(mutex_);
    aborted_ = true;
    all.swap(open_);
  }
  const std::unique_lock lock(calls_, std::chrono::milliseconds(500));
  for (const auto& [communicator, handle] : all) ncclCommAbort(handle);
}

}  // namespace

std::unique_ptr<Transport> make_nccl_transport(int rank, Store& store, Waiting waiting) {
  return std::make_unique<NcclTransport>(rank, store, std::move(waiting));
}

}  // namespace orrery::transport
