#include "backend/cuda/local_transport.hpp"

#include <cuda.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "backend/cuda/environment.hpp"
#include "backend/cuda/runtime.hpp"

namespace orrery::cuda {

namespace {

using transport::DeviceStream;

// Above every number of an operation; waits compare as signed differences.
constexpr std::uint64_t over = std::uint64_t{1} << 62;

// Words of all rooms: a group of 16 takes 17.
constexpr std::size_t all_words = std::size_t{1} << 14;

// A function of the driver.
template <class Function>
Function driver_function(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  check(cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result), name);
  if (result != cudaDriverEntryPointSuccess)
    throw Error(Category::unavailable,
                std::string("the driver has no ") + name + ", which ranks on one GPU need");
  return reinterpret_cast<Function>(found);
}

using MemoryOperation = CUresult (*)(CUstream, CUdeviceptr, cuuint64_t, unsigned int);

void check_driver(CUresult result, const char* call) {
  if (result == CUDA_SUCCESS) return;
  throw Error(Category::unavailable,
              std::string(call) + ": CUDA error " + std::to_string(static_cast<int>(result)));
}

void refuse_lazy_loading() {
  const auto loading_mode =
      driver_function<CUresult (*)(CUmoduleLoadingMode*)>("cuModuleGetLoadingMode");
  CUmoduleLoadingMode mode{};
  check_driver(loading_mode(&mode), "cuModuleGetLoadingMode");
  if (mode != CU_MODULE_EAGER_LOADING)
    throw Error(
        Category::unavailable,
        "ranks on one GPU need CUDA_MODULE_LOADING=EAGER: loading a kernel when it is first "
        "launched may wait for streams that wait for it");
}

// An operation that some members have issued.
struct Pending {
  Communication first;
  std::vector<View> inputs, outputs;
  std::size_t issued = 0;
};

struct Finish {
  void operator()(cudaStream_t stream) const { finish(stream); }
};

// Where the members of a communicator meet, or two that exchange. Stays where it is.
struct Room {
  cudaStream_t hub = nullptr;
  std::uint64_t* words = nullptr;     // in device memory: by part, who has come; then what is over
  std::vector<std::uint64_t> issued;  // by part; guarded, as all below
  std::map<std::uint64_t, Pending> pending;  // by number, from 1

  std::size_t parts() const { return issued.size(); }
};

}  // namespace

// The lock is held for bookkeeping only: what enqueues may block while a stream's queue is full,
// and what drains that may be another rank's next operation.
struct LocalHub::State {
  LocalWork work;
  std::optional<Throttle> throttle;
  int gpu = 0;
  const MemoryOperation wait = driver_function<MemoryOperation>("cuStreamWaitValue64"),
                        write = driver_function<MemoryOperation>("cuStreamWriteValue64");
  const int queues = hardware_queues();
  cudaStream_t releasing = nullptr;
  std::uint64_t* words = nullptr;  // in device memory; the first says that the run has failed
  std::mutex mutex;                // of all below
  std::map<std::pair<const Communicator*, std::pair<int, int>>, Room> rooms;
  std::map<const Communicator*, int> opened;  // by how many members
  std::condition_variable more_opened;
  std::size_t words_taken = 1;
  int streams = 2;  // on the GPU: `releasing`, and one on which products are tried out
  bool aborted = false;

  State(LocalWork w, std::optional<Throttle> t) : work(std::move(w)), throttle(t) {
    refuse_lazy_loading();
    check(cudaGetDevice(&gpu), "cudaGetDevice");
    check(cudaStreamCreateWithFlags(&releasing, cudaStreamNonBlocking), "cudaStreamCreate");
    const std::size_t bytes = all_words * sizeof *words;
    check(cudaMalloc(reinterpret_cast<void**>(&words), bytes), "cudaMalloc");
    check(cudaMemsetAsync(words, 0, bytes, releasing), "cudaMemsetAsync");
    check(cudaStreamSynchronize(releasing), "cudaStreamSynchronize");
  }
  ~State() {
    try_gpu(gpu);
    finish(releasing);
    for (auto& [key, room] : rooms) finish(room.hub);
    cudaFree(words);
  }

  const std::uint64_t* stop() const { return words; }

  void write_word(DeviceStream stream, std::uint64_t* word, std::uint64_t value) const {
    check_driver(
        write(stream, reinterpret_cast<CUdeviceptr>(word), value, CU_STREAM_WRITE_VALUE_DEFAULT),
        "cuStreamWriteValue64");
  }
  void wait_for_word(DeviceStream stream, std::uint64_t* word, std::uint64_t value) const {
    check_driver(wait(stream, reinterpret_cast<CUdeviceptr>(word), value, CU_STREAM_WAIT_VALUE_GEQ),
                 "cuStreamWaitValue64");
  }

  // With the lock.
  void count_stream() {
    if (++streams <= queues) return;
    throw Error(Category::unavailable,
                "the ranks on one GPU have more streams than it has hardware queues, " +
                    std::to_string(queues) + ": one that waits would hold up another")
        .with("what helps", queues < 32 ? "CUDA_DEVICE_MAX_CONNECTIONS=32, or fewer ranks"
                                        : "fewer ranks on the GPU");
  }

  Room& room_of(const Communication& c, std::size_t parts) {
    const bool pair = c.kind == Collective::exchange;
    const auto key =
        std::pair{c.communicator, pair ? std::minmax({c.member, c.peer}) : std::pair{-1, -1}};
    {
      const std::lock_guard lock(mutex);
      if (const auto known = rooms.find(key); known != rooms.end()) return known->second;
    }
    cudaStream_t made = nullptr;
    check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "cudaStreamCreate");
    std::unique_ptr<CUstream_st, Finish> fresh(made);  // finished where another member was first
    const std::lock_guard lock(mutex);
    auto known = rooms.find(key);
    if (known == rooms.end()) {
      if (words_taken + parts + 1 > all_words)
        throw Error(Category::unavailable, "too many channels for ranks on one GPU");
      count_stream();
      known = rooms.try_emplace(key).first;
      known->second.hub = fresh.release();
      known->second.issued.resize(parts);
      known->second.words = words + std::exchange(words_taken, words_taken + parts + 1);
    }
    return known->second;
  }

  // All members have issued operation `number`: the stream of the room carries it out. They issue
  // the next one behind this call.
  void meet(const Room& room, std::uint64_t number, const Pending& pending) {
    const std::size_t parts = pending.inputs.size();
    for (std::size_t i = 0; i < parts; ++i) wait_for_word(room.hub, room.words + i, number);
    work.carry_out(room.hub, stop(), pending.first, pending.inputs, pending.outputs);
    if (throttle)
      work.delay(room.hub, throttled_time(*throttle, pending.first.kind, pending.first.size(),
                                          static_cast<int>(parts)));
    write_word(room.hub, room.words + parts, number);
    {
      const std::lock_guard lock(mutex);
      if (!aborted) return;
    }
    write_word(room.hub, room.words + parts, over);  // release() may have come before
  }

  // Lets every stream go on: what waits is released, then what rooms still write cannot hold
  // anyone back again, because their last word is that all is over.
  void release(const std::vector<const Room*>& all) const {
    write_word(releasing, words, 1);
    for (const Room* room : all) {
      for (std::size_t i = 0; i <= room->parts(); ++i) write_word(releasing, room->words + i, over);
      write_word(room->hub, room->words + room->parts(), over);
    }
  }
};

// The part of one rank.
class LocalTransport final : public transport::Transport {
 public:
  LocalTransport(LocalHub::State& hub, int rank, transport::Waiting waiting)
      : hub_(hub), rank_(rank), waiting_(std::move(waiting)) {}

  // A room opens when it is entered; but no rank's stream waits for another before all have come
  // here, with what they prepared. As on NCCL.
  void open(std::vector<const Communicator*> communicators) override {
    std::sort(communicators.begin(), communicators.end());  // of a group both directions are one
    communicators.erase(std::unique(communicators.begin(), communicators.end()),
                        communicators.end());
    std::unique_lock lock(hub_.mutex);
    for (const Communicator* c : communicators) ++hub_.opened[c];
    hub_.more_opened.notify_all();
    const Seconds begin = waiting_.clock();
    for (const Communicator* c : communicators)
      while (hub_.opened[c] < c->size()) {
        if (hub_.aborted) throw aborted("opening", *c);
        if ((waiting_.clock() - begin).value > waiting_.patience.value)
          throw Error(Category::deadlock,
                      "opening " + c->name() + ": not all of its members came to open it")
              .with("rank", std::to_string(rank_));
        hub_.more_opened.wait_for(lock, std::chrono::milliseconds(10));
        lock.unlock();
        waiting_.check();
        lock.lock();
      }
  }
  void close() override {}
  std::exception_ptr failure() override { return nullptr; }

  void stream_opened() override {
    const std::lock_guard lock(hub_.mutex);
    hub_.count_stream();
  }

  void issue(DeviceStream stream, const Communication& c, const View& in,
             const View& out) override {
    const bool pair = c.communicator->edge() || c.kind == Collective::exchange;
    const std::size_t parts = pair ? 2 : static_cast<std::size_t>(c.communicator->size());
    const std::size_t part = c.kind == Collective::exchange
                                 ? static_cast<std::size_t>(c.member > c.peer)
                                 : static_cast<std::size_t>(c.member);
    Room& room = hub_.room_of(c, parts);
    std::uint64_t number = 0;
    std::optional<Pending> complete;
    {
      const std::lock_guard lock(hub_.mutex);
      throw_if_aborted(c);
      number = ++room.issued[part];
    }
    hub_.write_word(stream, room.words + part, number);
    {
      const std::lock_guard lock(hub_.mutex);
      throw_if_aborted(c);
      complete = enter(room, number, part, parts, c, in, out);
    }
    hub_.wait_for_word(stream, room.words + parts, number);
    if (complete) hub_.meet(room, number, *complete);
  }

  void abort() noexcept override {
    try {
      std::vector<const Room*> all;
      {
        const std::lock_guard lock(hub_.mutex);
        if (std::exchange(hub_.aborted, true)) return;
        for (const auto& [key, room] : hub_.rooms) all.push_back(&room);
      }
      use_gpu(hub_.gpu);
      hub_.release(all);
    } catch (const Error&) {  // the device itself has failed: nothing waits there any more
    }
  }

 private:
  // With the lock. The operation when its last member has come.
  static std::optional<Pending> enter(Room& room, std::uint64_t number, std::size_t part,
                                      std::size_t parts, const Communication& c, const View& in,
                                      const View& out) {
    Pending& pending = room.pending[number];
    if (pending.issued == 0) {
      pending.first = c;
      pending.inputs.resize(parts);
      pending.outputs.resize(parts);
    }
    pending.inputs[part] = in;
    pending.outputs[part] = out;
    if (++pending.issued < parts) return std::nullopt;
    std::optional<Pending> complete = std::move(pending);
    room.pending.erase(number);
    return complete;
  }

  Error aborted(const std::string& what, const Communicator& c) const {
    return Error(Category::unavailable, what + " on " + c.name() + ": communication was aborted")
        .with("rank", std::to_string(rank_));
  }
  void throw_if_aborted(const Communication& c) const {
    if (hub_.aborted) throw aborted(name(c.kind), *c.communicator);
  }

  LocalHub::State& hub_;
  const int rank_;
  const transport::Waiting waiting_;
};

LocalHub::LocalHub(LocalWork work, std::optional<Throttle> throttle)
    : state_(std::make_unique<State>(std::move(work), throttle)) {}
LocalHub::~LocalHub() = default;

std::unique_ptr<transport::Transport> LocalHub::transport_of(int rank, transport::Waiting waiting) {
  return std::make_unique<LocalTransport>(*state_, rank, std::move(waiting));
}

}  // namespace orrery::cuda
