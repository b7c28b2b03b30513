// The host side of one rank in a real world: its control flows and their baton, what they wait for,
// its control messages. What its streams do is up to the world that derives from it.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "backend/device.hpp"
#include "backend/host/monitor.hpp"
#include "backend/world.hpp"

namespace orrery::host {

// What a stream's time went into, as TimeParts.
enum class Part : std::uint8_t { compute, exposed_communication, bubble, overhead, idle };
inline constexpr std::size_t part_count = 5;
using PartTimes = std::array<Time, part_count>;

// What a stream communicates over; set by its first communication.
enum class Traffic : std::uint8_t { none, group, edge };
Part waiting_for(Traffic traffic);

// A stretch of the program's time in which no flow could run, and a stream that it waited for.
struct HostWait {
  std::uint32_t stream = 0;
  Time from, to;
};

using ChannelUses = std::vector<std::pair<const Channel*, ChannelUse>>;

class HostDevice;

// A control flow of a rank: the program itself, or one that it forked.
struct Flow final : Entity {
  Flow(HostDevice& d, std::uint32_t i, std::string n) : device(d), id(i), name(std::move(n)) {}
  std::string who() const override;
  std::string blocked_in() const override;

  HostDevice& device;
  const std::uint32_t id;
  const std::string name;
  const Wait* wait = nullptr;  // while it waits; null before it has started
  bool satisfied = false;      // how its last wait ended
  bool ended = false;
  std::thread thread;  // of a forked flow

 private:
  bool deadline_passed() override;
};

// What the ranks and services of a world share.
struct Shared {
  Monitor& monitor;
  WorldState& state;
  std::function<void(int to, ControlMessage)> deliver;  // without the lock
};

// Hand-overs: whenever a flow lets go of the baton in a wait or by its end while the rank has other
// flows, one decision {handover, that flow, the flow that runs next} is logged, also when it is the
// same flow. The next flow is the first, in cyclic order behind the last, that can run.
class HostDevice : public Device {
 public:
  HostDevice(Shared& shared, int rank);

  // The program's life: begin, and end or fail; then stop, after which nothing runs any more. The
  // derived world's destructor has called stop().
  void begin(Rank& rank);
  virtual void drain(Rank& rank);  // all streams to their end; throws what poisoned one
  void end_program();
  virtual void stop();
  void report(Rank& rank, RankReport& report) const;
  std::uint64_t activities() const;  // operations that streams have passed
  Time last_end() const;             // of all streams
  virtual Bytes arena_high_water() const { return Bytes(0); }

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

  int rank() const { return rank_; }
  Monitor& monitor() const { return shared_.monitor; }
  const WorldState& state() const { return shared_.state; }
  std::uint32_t stream_count() const { return stream_count_.load(); }

  // Of a stream. From any thread.
  virtual const std::string& stream_name(std::uint32_t stream) const = 0;
  virtual std::uint64_t passed(std::uint32_t stream) const = 0;
  virtual std::uint64_t issued(std::uint32_t stream) const = 0;  // the program's own thread
  virtual Traffic traffic(std::uint32_t stream) const = 0;
  // Of a stream, when nothing runs any more: what it communicated, and when its last operation
  // ended.
  virtual const ChannelUses& uses(std::uint32_t stream) const = 0;
  virtual Time stream_end(std::uint32_t stream) const = 0;
  virtual std::vector<WorkRow> work() const = 0;  // of the compute stream
  // With the world's lock. `watch`: advance() will be called when the stream has passed the event.
  virtual void watch(Event event) = 0;
  virtual std::exception_ptr failure_by(Event event) const = 0;

  // With the world's lock.
  void advance();  // gives a free baton to a flow that can run
  void receive(ControlMessage message);
  const std::vector<ControlMessage>& mailbox() const { return host_.mailbox; }
  // Time up to `now` in which no flow could run, by what the program waited for.
  PartTimes host_waited(Instant now) const;

 protected:
  // A stream of that name is about to be opened, as the next.
  void count_stream(const std::string& name);
  Rank* program() const { return program_; }
  // The stream whose time is reported.
  std::uint32_t compute_stream() const { return static_cast<std::uint32_t>(compute_.load()); }
  void note_step(std::int64_t step, const StepMark& mark);
  // Tells the world's observer, if there is one.
  void observe(std::uint32_t stream, StreamObserver::What what, const char* label, Time begin,
               Time end) const {
    if (StreamObserver* const observer = state().options.observer)
      observer->ended(rank_, stream, what, label, begin, end);
  }
  // For a device that learns later when its operations ran: keeps the main flow's waits for
  // streams. With the lock: those since the last call, in order.
  void keep_host_waits() { keeps_host_waits_ = true; }
  std::vector<HostWait> take_host_waits() { return std::exchange(host_waits_, {}); }

 private:
  static constexpr std::int64_t nobody = -1;

  void run_forked(Flow& flow, const std::function<void()>& body);
  void release(Flow& flow);
  void give(Flow& flow, bool satisfied);
  void end(Flow& flow);
  void take_to_unwind(Lock& lock, Flow& flow);
  bool try_give();
  bool can_run(const Flow& flow, bool& satisfied) const;
  Part part_of_host() const;
  const Wait* main_wait() const;  // for events; null where the main flow has none

  Shared& shared_;
  const int rank_;
  Rank* program_ = nullptr;
  std::atomic<std::uint32_t> stream_count_{0};
  std::atomic<std::int64_t> compute_{0};

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
  bool keeps_host_waits_ = false;
  std::vector<HostWait> host_waits_;
  StepMarks steps_;
};

}  // namespace orrery::host
