#include "backend/cuda/local_transport.hpp"

#include <cuda.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "backend/cuda/runtime.hpp"

namespace orrery::cuda {

namespace {

using transport::DeviceStream;

// Above every number of an operation; waits compare as signed differences.
constexpr std::uint64_t over = std::uint64_t{1} << 62;

using MemoryOperation = CUresult (*)(CUstream, CUdeviceptr, cuuint64_t, unsigned int);

MemoryOperation memory_operation(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  check(cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result), name);
  if (result != cudaDriverEntryPointSuccess)
    throw Error(Category::unavailable,
                std::string("the driver has no ") + name + ", which ranks on one GPU need");
  return reinterpret_cast<MemoryOperation>(found);
}

void check_driver(CUresult result, const char* call) {
  if (result == CUDA_SUCCESS) return;
  throw Error(Category::unavailable,
              std::string(call) + ": CUDA error " + std::to_string(static_cast<int>(result)));
}

// An operation that some members have issued.
struct Pending {
  Communication first;
  std::vector<View> inputs, outputs;
  std::size_t issued = 0;
};

// Where the members of a communicator meet, or two that exchange.
struct Room {
  cudaStream_t hub = nullptr;
  std::uint64_t* words = nullptr;     // in device memory: by part, who has come; then what is over
  std::vector<std::uint64_t> issued;  // by part
  std::map<std::uint64_t, Pending> pending;  // by number, from 1
};

}  // namespace

struct LocalHub::State {
  LocalWork work;
  std::optional<Throttle> throttle;
  int gpu = 0;
  const MemoryOperation wait = memory_operation("cuStreamWaitValue64"),
                        write = memory_operation("cuStreamWriteValue64");
  std::mutex mutex;  // of all below
  std::map<std::pair<const Communicator*, std::pair<int, int>>, Room> rooms;
  bool aborted = false;
  cudaStream_t releasing = nullptr;
  std::uint64_t* stop = nullptr;  // in device memory

  State(LocalWork w, std::optional<Throttle> t) : work(std::move(w)), throttle(t) {
    check(cudaGetDevice(&gpu), "cudaGetDevice");
    check(cudaStreamCreateWithFlags(&releasing, cudaStreamNonBlocking), "cudaStreamCreate");
    stop = words(1);
  }
  ~State() {
    use_gpu(gpu);
    cudaStreamDestroy(releasing);  // streams before the words that they write
    for (auto& [key, room] : rooms) cudaStreamDestroy(room.hub);
    for (auto& [key, room] : rooms) cudaFree(room.words);
    cudaFree(stop);
  }

  static std::uint64_t* words(std::size_t count) {
    std::uint64_t* fresh = nullptr;
    const std::size_t bytes = count * sizeof *fresh;
    check(cudaMalloc(reinterpret_cast<void**>(&fresh), bytes), "cudaMalloc");
    check(cudaMemset(fresh, 0, bytes), "cudaMemset");
    return fresh;
  }

  void write_word(DeviceStream stream, std::uint64_t* word, std::uint64_t value) const {
    check_driver(
        write(stream, reinterpret_cast<CUdeviceptr>(word), value, CU_STREAM_WRITE_VALUE_DEFAULT),
        "cuStreamWriteValue64");
  }
  void wait_for_word(DeviceStream stream, std::uint64_t* word, std::uint64_t value) const {
    check_driver(wait(stream, reinterpret_cast<CUdeviceptr>(word), value, CU_STREAM_WAIT_VALUE_GEQ),
                 "cuStreamWaitValue64");
  }

  Room& room_of(const Communication& c, std::size_t parts) {
    const bool pair = c.kind == Collective::exchange;
    Room& room =
        rooms[{c.communicator, pair ? std::minmax({c.member, c.peer}) : std::pair{-1, -1}}];
    if (room.hub != nullptr) return room;
    room.issued.resize(parts);
    check(cudaStreamCreateWithFlags(&room.hub, cudaStreamNonBlocking), "cudaStreamCreate");
    room.words = words(parts + 1);
    return room;
  }

  // All members have issued operation `number`: the stream of the room carries it out.
  void meet(Room& room, std::uint64_t number, const Pending& pending) const {
    const std::size_t parts = room.issued.size();
    for (std::size_t i = 0; i < parts; ++i) wait_for_word(room.hub, room.words + i, number);
    work.carry_out(room.hub, stop, pending.first, pending.inputs, pending.outputs);
    if (throttle)
      work.delay(room.hub, throttled_time(*throttle, pending.first.kind, pending.first.size(),
                                          static_cast<int>(parts)));
    write_word(room.hub, room.words + parts, number);
  }

  // Lets every stream go on: what waits is released, then what rooms still write cannot hold
  // anyone back again, because their last word is that all is over.
  void release() {
    write_word(releasing, stop, 1);
    for (auto& [key, room] : rooms) {
      const std::size_t parts = room.issued.size();
      for (std::size_t i = 0; i <= parts; ++i) write_word(releasing, room.words + i, over);
      write_word(room.hub, room.words + parts, over);
    }
  }
};

// The part of one rank.
class LocalTransport final : public transport::Transport {
 public:
  LocalTransport(LocalHub::State& hub, int rank) : hub_(hub), rank_(rank) {}

  void open(std::vector<const Communicator*>) override {}  // a room opens when it is entered
  void close() override {}
  std::exception_ptr failure() override { return nullptr; }

  void issue(DeviceStream stream, const Communication& c, const View& in,
             const View& out) override {
    const bool pair = c.communicator->edge() || c.kind == Collective::exchange;
    const std::size_t parts = pair ? 2 : static_cast<std::size_t>(c.communicator->size());
    const std::size_t part = c.kind == Collective::exchange
                                 ? static_cast<std::size_t>(c.member > c.peer)
                                 : static_cast<std::size_t>(c.member);
    std::uint64_t number = 0, *words = nullptr;
    {
      const std::lock_guard lock(hub_.mutex);
      throw_if_aborted(c);
      Room& room = hub_.room_of(c, parts);
      words = room.words;
      number = ++room.issued[part];
    }
    // A full queue holds up its own rank alone: no lock is held here.
    hub_.write_word(stream, words + part, number);
    const std::lock_guard lock(hub_.mutex);
    throw_if_aborted(c);
    Room& room = hub_.room_of(c, parts);
    Pending& pending = room.pending[number];
    if (pending.issued == 0) {
      pending.first = c;
      pending.inputs.resize(parts);
      pending.outputs.resize(parts);
    }
    pending.inputs[part] = in;
    pending.outputs[part] = out;
    hub_.wait_for_word(stream, words + parts, number);
    if (++pending.issued < parts) return;
    hub_.meet(room, number, pending);
    room.pending.erase(number);
  }

  void abort() noexcept override {
    try {
      const std::lock_guard lock(hub_.mutex);
      if (std::exchange(hub_.aborted, true)) return;
      use_gpu(hub_.gpu);
      hub_.release();
    } catch (const Error&) {  // the device itself has failed: nothing waits there any more
    }
  }

 private:
  void throw_if_aborted(const Communication& c) const {
    if (hub_.aborted)
      throw Error(Category::unavailable, std::string(name(c.kind)) + " on " +
                                             c.communicator->name() + ": communication was aborted")
          .with("rank", std::to_string(rank_));
  }

  LocalHub::State& hub_;
  const int rank_;
};

LocalHub::LocalHub(LocalWork work, std::optional<Throttle> throttle)
    : state_(std::make_unique<State>(std::move(work), throttle)) {}
LocalHub::~LocalHub() = default;

std::unique_ptr<transport::Transport> LocalHub::transport_of(int rank) {
  return std::make_unique<LocalTransport>(*state_, rank);
}

}  // namespace orrery::cuda
