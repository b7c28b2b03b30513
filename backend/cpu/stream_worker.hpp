// One stream: a queue of operations and the thread that executes them in order.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "backend/channel.hpp"
#include "backend/cpu/operation.hpp"
#include "backend/host/device.hpp"
#include "backend/world.hpp"

namespace orrery::cpu {

using namespace host;

class CpuDevice;

class StreamWorker final : public Entity {
 public:
  StreamWorker(CpuDevice& device, std::uint32_t index, std::string name);
  ~StreamWorker() override;  // after stop()

  // The host's side.
  Operation& next(Operation::Kind kind);  // the next operation, to be filled; then submit()
  void submit();
  std::uint64_t issued() const { return issued_; }
  void set_traffic(Traffic traffic);
  // Lets the worker end when its queue is empty, or at once if the run has failed, and joins it.
  void stop();

  // From any thread.
  const std::string& name() const { return name_; }
  std::uint64_t passed() const { return passed_.load(std::memory_order_seq_cst); }
  Traffic traffic() const { return traffic_.load(std::memory_order_relaxed); }
  TimeParts parts() const;
  void note_step();  // a step of the rank has ended

  // With the world's lock.
  // The stream will tell its device when it has passed `ordinal`; then look at passed() once more.
  void watch(std::uint64_t ordinal);
  // Another stream has moved on: ends this stream's fence, or watches again.
  void review_fence();
  std::exception_ptr failure_by(std::uint64_t ordinal) const;

  // After stop().
  const ChannelUses& uses() const { return uses_; }
  Time last_end() const { return last_end_; }
  std::vector<WorkRow> work() const { return work_.rows(); }

  std::string who() const override;
  std::string blocked_in() const override;
  bool idle() const override { return at_ == nullptr; }

 private:
  void run();
  Operation* await();
  void execute(Operation& operation);
  void compute(const Operation& operation);
  void run_body(const Operation& operation, std::span<const View> views);
  void run_sequence(const Sequence& sequence, std::span<const View> views);
  void note_work(const Operation& operation, Instant began);
  void fence(const Operation& operation);
  void communicate(const Operation& operation);
  void pass(std::uint64_t ordinal);
  void poison(std::exception_ptr failure, std::uint64_t ordinal, const char* operation);
  bool poisoned() const { return failed_at_.load(std::memory_order_relaxed) != never; }
  void spend(Part part);  // the time since the last call
  void wait_for_host(Lock& lock);

  static constexpr std::uint64_t never = ~std::uint64_t{0};

  CpuDevice& device_;
  const std::uint32_t index_;
  const std::string name_;
  OperationQueue queue_;
  std::uint64_t issued_ = 0;  // host's
  std::atomic<bool> sleeping_{false};
  bool stop_ = false;               // guarded by the lock, as at_ and failure_
  const Operation* at_ = nullptr;   // in execution; written by the worker, read when it is blocked
  std::optional<Event> fenced_by_;  // what the fence it is blocked in waits for; guarded
  std::exception_ptr failure_;      // guarded
  std::atomic<std::uint64_t> failed_at_{never};
  std::atomic<std::uint64_t> passed_{0};
  std::atomic<std::uint64_t> watched_{never};
  std::atomic<Traffic> traffic_{Traffic::none};
  std::array<std::atomic<std::uint64_t>, part_count> parts_{};
  Instant mark_;                      // up to here the time has been spent
  std::mutex work_mutex_;             // steps may end on another stream
  WorkTimes work_;                    // guarded by it
  std::vector<Instant> kernel_ends_;  // of the sequence that ran last
  Time last_end_;
  ChannelUses uses_;
  std::thread thread_;
};

}  // namespace orrery::cpu
