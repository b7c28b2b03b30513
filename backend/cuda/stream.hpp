// One stream of a GPU: what was enqueued on it and is not done yet, and where its time went.
//
// Every operation stands between two events with times. The program enqueues; the world's watcher
// asks which operations are done. Both hold the device's lock for the bookkeeping only: a call that
// enqueues blocks while a stream's queue is full.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "backend/channel.hpp"
#include "backend/cuda/runtime.hpp"
#include "backend/host/device.hpp"
#include "backend/work_times.hpp"

namespace orrery::cuda {

// An operation on its way.
struct Issued {
  enum class Kind : std::uint8_t { compute, fence, communicate };
  Kind kind = Kind::compute;
  std::uint64_t ordinal = 0;
  int commands = 8;  // that CUDA's queue holds for it, at most
  cudaEvent_t begin = nullptr, end = nullptr;
  const char* label = "";
  WorkItem work{};                            // compute
  std::vector<cudaEvent_t> kernel_ends = {};  // of a sequence, but the last's
  Site site;                                  // communicate
  const Channel* channel = nullptr;           // communicate
  Collective collective = Collective::all_reduce;
  Event fenced_by{};                 // fence
  host::PartTimes host_waited = {};  // until it was issued
  std::vector<host::HostWait> host_waits = {};
  int held = 0;  // fences that are about to wait for its end
};

// [begin, end] since the start of the run, in which a stream communicated.
struct Interval {
  Time begin, end;
  std::size_t use = 0;  // index of the channel's use
};

class GpuStream {
 public:
  GpuStream(std::string name, Place place, cudaEvent_t origin, Time origin_time);
  ~GpuStream();
  GpuStream(const GpuStream&) = delete;
  GpuStream& operator=(const GpuStream&) = delete;

  cudaStream_t handle() const { return handle_; }
  const std::string& name() const { return name_; }
  Place place() const { return place_; }
  std::uint64_t passed() const { return passed_.load(std::memory_order_seq_cst); }
  std::uint64_t issued() const { return issued_; }
  host::Traffic traffic() const { return traffic_.load(std::memory_order_relaxed); }
  void set_traffic(host::Traffic traffic) { traffic_.store(traffic, std::memory_order_relaxed); }

  // All below: with the device's lock.
  // The next operation, whose events are to be recorded around it; it stays where it is.
  Issued& open(Issued::Kind kind, int commands, cudaEvent_t begin, cudaEvent_t end);
  void submit(const Issued& operation) { submitted_ = operation.ordinal; }  // all of it is enqueued
  // Operation `ordinal`, which is not retired before it is let go; null when it has been passed.
  Issued* hold(std::uint64_t ordinal);
  static void let_go(Issued& operation) { --operation.held; }
  // The oldest operation when it is done, else null. Then account for it, and retire it.
  Issued* finished();
  void retire(EventPool& events);
  int commands() const { return commands_; }  // of all that are not retired
  const Issued* oldest() const { return pending_.empty() ? nullptr : &pending_.front(); }

  Time gap(const Issued& operation);     // since the end of the one before; moves the clock
  Time length(const Issued& operation);  // of the operation; moves the clock
  Time clock() const { return clock_; }  // the end of what has been accounted for
  void spend(host::Part part, Time time) { parts_[static_cast<std::size_t>(part)] += time; }
  // Time in which the host had issued nothing: what it waited for meanwhile, else overhead.
  void spend_on_host(const host::PartTimes& waited, Time gap);
  TimeParts parts() const;

  std::vector<std::pair<std::uint64_t, std::int64_t>> marks;  // (ordinal, step), not reached yet
  host::ChannelUses uses;
  std::deque<Interval> recent;  // communications that the compute stream may have waited for
  std::size_t use_of(const Channel* channel, Collective kind);

 private:
  const std::string name_;
  const Place place_;
  cudaStream_t handle_ = nullptr;
  std::uint64_t issued_ = 0, submitted_ = 0;
  int commands_ = 0;
  std::atomic<std::uint64_t> passed_{0};
  std::atomic<host::Traffic> traffic_{host::Traffic::none};
  std::deque<Issued> pending_;
  cudaEvent_t last_;  // up to which the clock has come
  bool own_last_ = false;
  Time clock_;
  host::PartTimes parts_{}, host_waited_{};
};

}  // namespace orrery::cuda
