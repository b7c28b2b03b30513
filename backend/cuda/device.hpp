// One rank of the CUDA world: its GPU, streams and memory, and its part in communication.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "backend/cuda/graphs.hpp"
#include "backend/cuda/launcher.hpp"
#include "backend/cuda/regions.hpp"
#include "backend/cuda/stream.hpp"
#include "backend/cuda/world.hpp"
#include "backend/host/arena.hpp"
#include "backend/host/device.hpp"
#include "backend/transport/transport.hpp"

namespace orrery::cuda {

// What devices share.
struct CudaParts {
  const CudaOptions& options;
  const KernelBodies& host_bodies;
  std::function<void()> submitted;          // an operation is on its way
  std::function<void()> first_step_issued;  // by a rank; on its thread
  std::atomic<std::int64_t> in_flight{0};
};

class CudaDevice final : public host::HostDevice {
 public:
  CudaDevice(host::Shared& shared, CudaParts& parts, int rank);
  ~CudaDevice() override;

  void drain(Rank& rank) override;
  Bytes arena_high_water() const override { return device_memory_.highest; }

  void open_stream(std::uint32_t stream, const std::string& name, Place place) override;
  void prepare(const Sequence& sequence) override;
  void* map(const Storage& storage) override;
  void unmap(void* data, const Storage& storage, Event after) override;
  void read(const Operand& from, void* to) override;
  void write(const void* from, const Operand& to) override;
  void launch(std::uint32_t stream, const PreparedKernel& kernel, std::span<const Operand> operands,
              std::uint32_t roles) override;
  void launch(std::uint32_t stream, const Sequence& sequence,
              std::span<const Operand> operands) override;
  void copy(std::uint32_t stream, const Operand& from, const Operand& to) override;
  void upload(std::uint32_t stream, const Operand& to, std::span<const double> values) override;
  void fence(std::uint32_t stream, Event event) override;
  void communicate(
      std::uint32_t stream, Channel& channel, const Communication& communication,
      const std::vector<std::pair<const Communicator*, std::uint64_t>>& others) override;
  void mark_step(std::uint32_t stream, std::int64_t step) override;

  const std::string& stream_name(std::uint32_t index) const override {
    return streams_[index]->name();
  }
  std::uint64_t passed(std::uint32_t index) const override { return streams_[index]->passed(); }
  std::uint64_t issued(std::uint32_t index) const override { return streams_[index]->issued(); }
  host::Traffic traffic(std::uint32_t index) const override { return streams_[index]->traffic(); }
  const host::ChannelUses& uses(std::uint32_t index) const override {
    return streams_[index]->uses;
  }
  Time stream_end(std::uint32_t index) const override { return streams_[index]->clock(); }
  std::vector<WorkRow> work() const override {
    const std::lock_guard lock(mutex_);
    return work_.rows();
  }
  void watch(Event) override {}  // the watcher looks at every stream
  std::exception_ptr failure_by(Event) const override { return nullptr; }  // a failure ends the run

  // Its part in what a profiler saw.
  std::vector<NativeRow> native(std::span<const GpuActivity> activities) const {
    return regions_.rows(activities);
  }

  // For the watcher. Retires what is done. Throws what CUDA or the transport found wrong.
  enum class Look : std::uint8_t { nothing_in_flight, nothing_moved, moved };
  Look look();
  // What it waits for longest, for the report of a deadlock: "all_reduce on … (site)" by stream.
  std::vector<std::pair<std::string, std::string>> waiting();
  // Ends what this rank communicates, and calls that are stuck behind it.
  void abort() noexcept { transport_->abort(); }

 private:
  struct Use {
    Bytes live, highest;
  };
  // Enqueues one operation: `enqueue(handle)` between its two events.
  template <class Enqueue>
  void issue(std::uint32_t stream, Issued::Kind kind, const char* label, const Enqueue& enqueue,
             const Issued& more = {});
  Launcher& launcher_for(const GpuStream& stream) {
    return stream.place() == Place::host ? *host_launcher_ : *launcher_;
  }
  // Enqueues what is `item`, for a profiler.
  template <class Enqueue>
  void enqueue_as(std::uint32_t stream, const WorkItem& item, const Enqueue& enqueue);
  // `kernels`: of a sequence that were timed one by one.
  void note_work(const Issued& operation, Time length, std::span<const Time> kernels);
  void observe_operation(std::uint32_t index, const Issued& operation, Time begin, Time end,
                         std::span<const Time> kernels) const;
  void open_channels();
  bool retire_finished();
  void retire(std::uint32_t index, const Issued& operation);
  void end_step(std::int64_t step, Time at);
  void account_exposed(std::uint32_t other, Time from, Time to);
  void wait_for(cudaStream_t stream);
  // Until what is on its way on a stream leaves room for so many commands.
  void wait_for_room(const GpuStream& stream, int commands);
  template <class Each>
  void by_blocks(std::size_t bytes, const Each& each);

  CudaParts& parts_;
  const int gpu_;
  std::unique_ptr<transport::Transport> transport_;
  std::unique_ptr<Launcher> launcher_, host_launcher_;
  Graphs graphs_;
  EventPool events_;
  Regions regions_;
  std::vector<cudaEvent_t> kernel_ends_;  // of the sequence that is being issued
  cudaEvent_t origin_ = nullptr;
  Time origin_time_;
  cudaStream_t copies_ = nullptr;
  std::array<std::unique_ptr<GpuStream>, max_streams> streams_;
  mutable std::mutex mutex_;
  std::condition_variable room_;  // with it: a stream has come further
  WorkTimes work_;                // guarded by it
  host::Arena pinned_;
  Use device_memory_;
  std::set<const Sequence*> prepared_;
  bool channels_open_ = false;
};

}  // namespace orrery::cuda
