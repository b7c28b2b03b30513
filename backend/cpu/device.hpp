// One rank of the CPU world: its flows and their baton, its streams, its memory.
#pragma once

#include <array>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "backend/cpu/arena.hpp"
#include "backend/cpu/monitor.hpp"
#include "backend/cpu/rendezvous.hpp"
#include "backend/cpu/stream_worker.hpp"
#include "backend/device.hpp"
#include "backend/world.hpp"

namespace orrery::cpu {

class CpuDevice;

// A control flow of a rank: the program itself, or one that it forked.
struct Flow final : Entity {
  Flow(CpuDevice& d, std::uint32_t i, std::string n) : device(d), id(i), name(std::move(n)) {}
  std::string who() const override;
  std::string blocked_in() const override;

  CpuDevice& device;
  const std::uint32_t id;
  const std::string name;
  const Wait* wait = nullptr;  // while it waits; null before it has started
  bool satisfied = false;      // how its last wait ended
  bool ended = false;
  std::thread thread;  // of a forked flow

 private:
  bool deadline_passed() override;
};

// What devices share.
struct Shared {
  Monitor& monitor;
  Meetings& meetings;
  WorldState& state;
  const KernelBodies& bodies;
  std::function<void(int to, ControlMessage)> deliver;  // without the lock
};

// Hand-overs: whenever a flow lets go of the baton in a wait or by its end while the rank has other
// flows, one decision {handover, that flow, the flow that runs next} is logged, also when it is the
// same flow. The next flow is the first, in cyclic order behind the last, that can run.
class CpuDevice final : public Device {
 public:
  CpuDevice(Shared& shared, int rank);
  ~CpuDevice() override;

  // The program's life: begin, and end or fail; then stop, after which nothing runs any more.
  void begin(Rank& rank);
  void drain(Rank& rank);  // all streams to their end; throws what poisoned one
  void end_program();
  void stop();
  void report(Rank& rank, RankReport& report) const;

  void open_stream(std::uint32_t stream, const std::string& name, Place place) override;
  void* map(const Storage& storage) override;
  void unmap(void* data, const Storage& storage, Event after) override;
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
  HostState& host() override { return host_; }
  std::uint32_t current_flow() override;
  bool block(const Wait& wait) override;
  bool done(Event event) override;
  std::exception_ptr failure(Event event) override;
  Time now() override { return monitor().now(); }
  void fork(std::uint32_t flow, const std::string& name, std::function<void()> body) override;
  void raise(Signal& signal) override;
  void take(Signal& signal) override;
  void send(int to, ControlMessage message) override;
  ControlMessage take_message(Tag tag, int from) override;

  // For streams and flows.
  int rank() const { return rank_; }
  Monitor& monitor() const { return shared_.monitor; }
  Meetings& meetings() const { return shared_.meetings; }
  const KernelBodies& bodies() const { return shared_.bodies; }
  StreamWorker& stream(std::uint32_t index) const { return *streams_[index]; }
  std::mutex& racy_mutex() { return racy_mutex_; }
  void note_step(std::int64_t step, Time at);
  // What of [from, to], in which stream `index` communicated, the compute stream waited for it.
  Time exposed(std::uint32_t index, Instant from, Instant to) const;

  // With the world's lock.
  void stream_moved(std::uint32_t index);
  void advance();  // gives a free baton to a flow that can run
  void receive(ControlMessage message);
  const std::vector<ControlMessage>& mailbox() const { return host_.mailbox; }
  // Time up to `now` in which no flow could run, by what the program waited for.
  PartTimes host_waited(Instant now) const;
  // Stream `waiting` waits for stream `other`; -1 when it no longer does.
  void compute_waits(std::uint32_t waiting, std::int64_t other);

  Bytes arena_high_water() const { return arena_.high_water(Place::device); }
  std::uint64_t activities() const;
  Time last_end() const;

 private:
  static constexpr std::int64_t nobody = -1;

  void set_operands(Operation& operation, std::span<const Operand> operands) const;
  void run_forked(Flow& flow, const std::function<void()>& body);
  void release(Flow& flow);
  void give(Flow& flow, bool satisfied);
  void end(Flow& flow);
  void take_to_unwind(Lock& lock, Flow& flow);
  bool try_give();
  bool can_run(const Flow& flow, bool& satisfied) const;
  void watch_for(const Wait& wait);
  Part part_of_host() const;

  Shared& shared_;
  const int rank_;
  Rank* program_ = nullptr;
  std::array<std::unique_ptr<StreamWorker>, max_streams> streams_;
  std::atomic<std::uint32_t> stream_count_{0};
  std::atomic<std::int64_t> compute_{0};             // the stream whose time is reported
  std::atomic<std::int64_t> compute_waits_for_{-1};  // the stream whose operation it waits for
  std::atomic<std::int64_t> compute_waits_since_{0};
  std::mutex racy_mutex_;
  Arena arena_;

  // Guarded by the lock.
  HostState host_;
  std::vector<std::unique_ptr<Flow>> flows_;
  std::size_t alive_ = 0;             // flows that have not ended; also read by the flow that runs
  std::int64_t holder_ = nobody;      // the flow that runs
  std::int64_t designated_ = nobody;  // in a replay: the only one that may run next
  std::uint32_t last_ = 0;            // the flow that ran last
  bool log_handover_ = false;
  std::condition_variable baton_free_;  // in a run that has failed
  PartTimes host_waited_{};
  Instant host_waits_since_;
  std::vector<StepMark> steps_;
};

}  // namespace orrery::cpu
