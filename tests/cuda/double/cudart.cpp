// The CUDA runtime's functions that backend/cuda and the transports call; see cuda_double.hpp.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/cuda/double/cuda_double.hpp"

namespace {

using Instant = std::chrono::steady_clock::time_point;

std::atomic<int> gpus{8};
std::atomic<std::size_t> queue_depth{~std::size_t{0}};
std::atomic<int> destroyed_busy{0};
std::atomic<bool> copies_queue{false};
std::atomic<int> launched_graphs{0};
std::atomic<bool> pools_reuse{false};
std::size_t most_at_once = 0;  // streams; guarded by streams_mutex
thread_local int current_gpu = 0;

// One recording of an event.
struct Recording {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  Instant at;

  void finish() {
    const std::lock_guard lock(mutex);
    done = true;
    at = std::chrono::steady_clock::now();
    changed.notify_all();
  }
  void await() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return done; });
  }
  bool is_done() {
    const std::lock_guard lock(mutex);
    return done;
  }
};

// Words that streams wait for and write.
std::mutex words_mutex;
std::condition_variable word_written;

CUresult write_word(CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned int);
CUresult wait_for_word(CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned int);
CUresult loading_mode(CUmoduleLoadingMode* mode);

constexpr std::align_val_t alignment{256};
constexpr unsigned char poison = 0xFF;  // a NaN in every floating type

void* take(std::size_t bytes) { return ::operator new(bytes, alignment); }
void release(void* data) { ::operator delete(data, alignment); }

// Of each GPU, what is taken in stream order and not given back, as it was called for; both marks
// of a pool are that at its highest, as it reserves what is used and no more.
class Pools {
 public:
  void take(int gpu, void* data, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    blocks_[data] = {gpu, bytes};
    Use& use = uses_[gpu];
    use.highest = std::max(use.highest, use.now += bytes);
  }
  void give_back(void* data) {
    const std::lock_guard lock(mutex_);
    const auto block = blocks_.find(data);
    if (block == blocks_.end()) return;
    uses_[block->second.first].now -= block->second.second;
    blocks_.erase(block);
  }
  std::uint64_t highest(int gpu) {
    const std::lock_guard lock(mutex_);
    return uses_[gpu].highest;
  }
  void begin_anew(int gpu) {
    const std::lock_guard lock(mutex_);
    uses_[gpu].highest = uses_[gpu].now;
  }

 private:
  struct Use {
    std::uint64_t now = 0, highest = 0;
  };
  std::mutex mutex_;
  std::map<void*, std::pair<int, std::size_t>> blocks_;
  std::map<int, Use> uses_;
};
Pools pools;

int gpu_of_pool(cudaMemPool_t pool) {
  return static_cast<int>(reinterpret_cast<std::uintptr_t>(pool)) - 1;
}

}  // namespace

struct CUevent_st {
  std::shared_ptr<Recording> last;  // null: never recorded
};

struct CUgraph_st {
  std::vector<std::function<void()>> functions;
};
struct CUgraphExec_st {
  std::shared_ptr<const CUgraph_st> graph;
};

// Held by whoever enqueues on a GPU, also while the stream's queue is full.
std::mutex& calls_of(int gpu) {
  static std::array<std::mutex, 64> mutexes;
  return mutexes.at(static_cast<std::size_t>(gpu));
}

struct CUstream_st {
  explicit CUstream_st(int g) : gpu(g), thread([this] { run(); }) {}
  ~CUstream_st() {
    {
      const std::lock_guard lock(mutex);
      closing = true;
      changed.notify_all();
    }
    thread.join();
    for (const auto& [bytes, data] : given_back) release(data);
  }
  void append(std::function<void()> function) {
    if (recording != nullptr) return recording->functions.push_back(std::move(function));
    const std::lock_guard alone(calls_of(gpu));
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return queue.size() < queue_depth; });
    queue.push_back(std::move(function));
    changed.notify_all();
  }
  bool idle() {
    const std::lock_guard lock(mutex);
    return queue.empty() && !busy;
  }
  void await() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return queue.empty() && !busy; });
  }
  void run() {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [this] { return closing || !queue.empty(); });
      if (queue.empty()) return;
      const std::function<void()> function = std::move(queue.front());
      queue.pop_front();
      busy = true;
      changed.notify_all();
      lock.unlock();
      function();
      lock.lock();
      busy = false;
      changed.notify_all();
    }
  }

  const int gpu;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> queue;
  bool closing = false, busy = false;
  std::unique_ptr<CUgraph_st> recording;  // of the thread that enqueues, as what follows
  std::set<std::pair<std::size_t, void*>> given_back;  // where pools reuse memory, with its size
  std::map<void*, std::size_t> sizes;
  std::thread thread;
};

namespace {

// Streams that have not been destroyed, and those that were while something was still on them: what
// is in them is done, as on a GPU, but nobody may know when.
std::mutex streams_mutex;
std::set<std::shared_ptr<CUstream_st>> streams, deferred;

std::vector<std::shared_ptr<CUstream_st>> streams_of(int gpu) {
  const std::lock_guard lock(streams_mutex);
  std::vector<std::shared_ptr<CUstream_st>> found;
  for (const auto* set : {&streams, &deferred})
    for (const auto& stream : *set)
      if (stream->gpu == gpu) found.push_back(stream);
  return found;
}

// The copy engine of a GPU: one queue for copies of all streams. Those wait for each other in the
// order in which they were enqueued, while ranks share GPUs.
class CopyEngine {
 public:
  std::function<void()> turn(std::function<void()> copy) {
    if (!copies_queue) return copy;
    const std::lock_guard lock(mutex_);
    return [this, copy = std::move(copy), mine = enqueued_++] {
      std::unique_lock waiting(mutex_);
      changed_.wait(waiting, [&] { return done_ == mine; });
      copy();
      ++done_;
      changed_.notify_all();
    };
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t enqueued_ = 0, done_ = 0;
};

CopyEngine& engine_of(int gpu) {
  static std::array<CopyEngine, 64> engines;
  return engines.at(static_cast<std::size_t>(gpu));
}

// What cudaFree, cudaFreeHost and cudaHostAlloc do before anything else.
void await_all_streams() {
  for (const auto& stream : streams_of(current_gpu)) stream->await();
}

}  // namespace

namespace orrery::cuda_double {

void set_gpus(int count) { gpus = count; }
void set_queue_depth(std::size_t depth) { queue_depth = depth; }
int streams_destroyed_busy() { return destroyed_busy; }
void queue_copies(bool queue) { copies_queue = queue; }
void reuse_memory(bool reuse) { pools_reuse = reuse; }
int graphs_launched() { return launched_graphs.exchange(0); }
std::size_t most_streams() {
  const std::lock_guard lock(streams_mutex);
  return std::exchange(most_at_once, streams.size());
}
Plans& plans_of_this_thread() {
  thread_local Plans plans;
  return plans;
}
void append(CUstream_st* stream, std::function<void()> function) {
  stream->append(std::move(function));
}
int gpu_of(CUstream_st* stream) { return stream->gpu; }
std::uint64_t word(const std::uint64_t* address) {
  const std::lock_guard lock(words_mutex);
  return *address;
}

}  // namespace orrery::cuda_double

namespace {

CUresult write_word(CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned int) {
  stream->append([address, value] {
    const std::lock_guard lock(words_mutex);
    *reinterpret_cast<cuuint64_t*>(address) = value;
    word_written.notify_all();
  });
  return CUDA_SUCCESS;
}

CUresult wait_for_word(CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned int) {
  stream->append([address, value] {
    std::unique_lock lock(words_mutex);
    word_written.wait(lock, [address, value] {
      return static_cast<std::int64_t>(*reinterpret_cast<cuuint64_t*>(address) - value) >= 0;
    });
  });
  return CUDA_SUCCESS;
}

CUresult loading_mode(CUmoduleLoadingMode* mode) {
  const char* set = std::getenv("CUDA_MODULE_LOADING");
  const bool eager = set != nullptr && std::string(set) == "EAGER";
  *mode = eager ? CU_MODULE_EAGER_LOADING : CU_MODULE_LAZY_LOADING;
  return CUDA_SUCCESS;
}

}  // namespace

extern "C" {

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned int,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  const std::string name = symbol;
  *function = name == "cuStreamWaitValue64"      ? reinterpret_cast<void*>(wait_for_word)
              : name == "cuStreamWriteValue64"   ? reinterpret_cast<void*>(write_word)
              : name == "cuModuleGetLoadingMode" ? reinterpret_cast<void*>(loading_mode)
                                                 : nullptr;
  *result = *function != nullptr ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaSuccess ? "cudaSuccess" : "cudaErrorOfTheDouble";
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidDevice ? "invalid device ordinal" : "an error of the double";
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = gpus;
  return gpus > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= gpus) return cudaErrorInvalidDevice;
  current_gpu = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_gpu;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char* bus, int size, int device) {
  const std::string text = "0000:0" + std::to_string(device + 1) + ":00.0";
  std::strncpy(bus, text.c_str(), static_cast<std::size_t>(size));
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) {
  const auto fresh = std::make_shared<CUstream_st>(current_gpu);
  *stream = fresh.get();
  const std::lock_guard lock(streams_mutex);
  streams.insert(fresh);
  most_at_once = std::max(most_at_once, streams.size());
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  std::shared_ptr<CUstream_st> gone;
  const bool busy = !stream->idle();
  const std::lock_guard lock(streams_mutex);
  for (const auto& known : streams)
    if (known.get() == stream) gone = known;
  streams.erase(gone);
  if (busy) ++destroyed_busy, deferred.insert(gone);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  stream->await();
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return stream->idle() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream->recording != nullptr) return cudaErrorIllegalState;
  stream->recording = std::make_unique<CUgraph_st>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (stream->recording == nullptr) return cudaErrorIllegalState;
  *graph = stream->recording.release();
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status =
      stream->recording != nullptr ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st{std::make_shared<const CUgraph_st>(*graph)};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  ++launched_graphs;
  stream->append([graph = exec->graph] {
    for (const auto& function : graph->functions) function();
  });
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  event->last = std::make_shared<Recording>();
  stream->append([recording = event->last] { recording->finish(); });
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  return event->last == nullptr || event->last->is_done() ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->last != nullptr) event->last->await();
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int) {
  if (event->last != nullptr) stream->append([recording = event->last] { recording->await(); });
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to) {
  if (from->last == nullptr || to->last == nullptr) return cudaErrorInvalidResourceHandle;
  *ms = std::chrono::duration<float, std::milli>(to->last->at - from->last->at).count();
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  *data = take(bytes);
  std::memset(*data, poison, bytes);
  return cudaSuccess;
}
cudaError_t cudaFree(void* data) {
  await_all_streams();
  release(data);
  return cudaSuccess;
}
// Memory of a graph's own is more than this double has.
cudaError_t cudaMallocAsync(void** data, std::size_t bytes, cudaStream_t stream) {
  if (stream->recording != nullptr) return cudaErrorStreamCaptureUnsupported;
  void* fresh = nullptr;
  // The lowest: what gives back all that it took finds the same again.
  const auto known = stream->given_back.lower_bound({bytes, nullptr});
  if (known != stream->given_back.end() && known->first == bytes) {
    fresh = known->second;
    stream->given_back.erase(known);
  } else {
    fresh = take(bytes);
    if (pools_reuse) stream->sizes[fresh] = bytes;
  }
  *data = fresh;
  pools.take(stream->gpu, fresh, bytes);
  stream->append([fresh, bytes] { std::memset(fresh, poison, bytes); });
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  pools.give_back(data);
  if (const auto known = stream->sizes.find(data); known != stream->sizes.end())
    stream->given_back.emplace(known->second, data);
  else
    stream->append([data] { release(data); });
  return cudaSuccess;
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  *pool = reinterpret_cast<cudaMemPool_t>(static_cast<std::uintptr_t>(device) + 1);
  return cudaSuccess;
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr, void* value) {
  *static_cast<std::uint64_t*>(value) = pools.highest(gpu_of_pool(pool));
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  if (attribute != cudaMemPoolAttrUsedMemHigh) return cudaSuccess;
  if (*static_cast<std::uint64_t*>(value) != 0) return cudaErrorInvalidValue;
  pools.begin_anew(gpu_of_pool(pool));
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** data, std::size_t bytes, unsigned int) {
  await_all_streams();  // the worst that a driver may do
  return cudaMalloc(data, bytes);
}
cudaError_t cudaFreeHost(void* data) { return cudaFree(data); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  stream->append(engine_of(stream->gpu).turn([=] { std::memmove(to, from, bytes); }));
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  stream->append([=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  stream->append([=] { function(data); });
  return cudaSuccess;
}

}  // extern "C"
