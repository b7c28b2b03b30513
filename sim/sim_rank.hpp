// One rank of the simulated world, whoever issues for it: its streams, its host flows, and what it
// reports.
//
// SimDevice (device.hpp) runs the rank's program in actors; SimCursor (cursor.hpp) replays what one
// rank's program issued for a whole class of ranks.
#pragma once

#include <array>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/flow.hpp"
#include "backend/world.hpp"
#include "sim/core.hpp"
#include "sim/stream_state.hpp"
#include "sim/streams.hpp"
#include "sim/time_account.hpp"

namespace orrery::sim {

class SimRank;
struct Meeting;

// A host flow. Its clock runs ahead of the engine while it issues. What is looked at whenever it
// may go on comes first.
struct HostFlow {
  enum class Blocked : std::uint8_t {
    no,
    baton,  // wants to begin
    wait,   // in a wait of its program
    clock,  // until the engine reaches its clock
    queue,  // until a stream has passed an operation: its launch queue is full
    drain   // until all streams of the rank have ended
  };
  Blocked blocked = Blocked::no;
  bool ended = false;
  WaitClass wait_class = WaitClass::idle;
  std::uint32_t flow = 0;
  const Wait* wait = nullptr;  // Blocked::wait
  Event room;                  // Blocked::queue
  Time clock;
  Time blocked_from;         // on its own clock
  BlockedTime blocked_time;  // of waits that are over
  BlockedTime at_gap;        // as it was when the compute stream became empty
  SimRank* rank = nullptr;
  ActorId actor = no_actor;
  std::string name;

  BlockedTime blocked_until(Time now) const;
};

// A rank's part in a channel, per kind of operation.
struct ChannelPlace {
  int member = 0;              // of the channel's group
  Meeting* meeting = nullptr;  // of ranks that follow scripts
  Time busy, exposed;          // what it adds to the channel's use
};

class alignas(64) SimRank {
 public:
  SimRank(Core& core, std::uint32_t id);
  virtual ~SimRank() = default;
  SimRank(const SimRank&) = delete;
  SimRank& operator=(const SimRank&) = delete;

  std::uint32_t id() const { return id_; }
  StreamState& stream(std::uint32_t index) { return *streams_[index]; }
  const std::vector<StreamState*>& streams() const { return streams_; }
  virtual const std::string& stream_name(std::uint32_t index) const = 0;
  const std::vector<std::unique_ptr<HostFlow>>& flows() const { return flows_; }
  const ChannelPlace& channel_place(std::uint32_t index) const { return places_[index]; }
  void prefetch_places() const { __builtin_prefetch(places_.data()); }
  // What its host goes on with.
  void prefetch_host() const {
    __builtin_prefetch(main_);
    __builtin_prefetch(reinterpret_cast<const char*>(main_) + 64);
    for (std::size_t line = 2; line < 6; ++line)
      __builtin_prefetch(reinterpret_cast<const char*>(this) + 64 * line);
  }
  std::exception_ptr& poison_of(const StreamState& stream) {
    if (poison_.size() <= stream.index) poison_.resize(stream.index + 1U);
    return poison_[stream.index];
  }
  bool ended() const { return main_->ended; }
  Time launch_cost() const { return costs_.launch; }
  TimeAccount& account() { return account_; }  // of the compute stream
  WorkTimes& work() { return *work_; }         // of it, with SimOptions::work_times

  // For the streams, in phase 1.
  virtual void reconsider() = 0;  // wakes the flows that can go on
  void compute_gap_begins();
  void note_step(StreamState& stream, std::int64_t step, Time at);
  std::int64_t steps_until(Time at) const {  // that have ended
    return static_cast<std::int64_t>(steps_.until(at));
  }
  void count_communication(const StreamState& stream, Time start);
  // The exception being handled, with what is known of the stream's head.
  std::exception_ptr failure_here(const StreamState& stream) const;

 protected:
  void add_stream(const std::string& name);
  // An operation has been queued, which took the host `cost`: whether it has to wait for room in
  // the launch queue now.
  bool issued(HostFlow& flow, StreamState& stream, Time cost);
  void mark_issued(HostFlow& flow, StreamState& stream);
  // What a flow waits for whose launch queue is full.
  void wants_room(HostFlow& flow, const StreamState& stream) const;
  // The stream is used on a channel of this class.
  static void note_wait_class(StreamState& stream, WaitClass wait) {
    if (stream.wait_class != WaitClass::collective) stream.wait_class = wait;
  }

  // Whether what a flow waits for has come, but for the waits that other flows have a say in.
  bool is_over(const HostFlow& flow) const;
  void watch(const HostFlow& flow);  // what it waits for wakes it
  void update_thresholds();
  // Its wait is over: its clock and the time that it was blocked.
  void unblock(HostFlow& flow) const;
  WaitClass class_of(const Wait& wait) const;

  Core& core_;
  // What ends of operations touch.
  StreamState* compute_ = nullptr;
  std::vector<ChannelPlace> places_;
  HostFlow* main_ = nullptr;  // the first of flows_
  std::uint32_t id_;
  HostCosts costs_;
  TimeAccount account_;  // of the compute stream
  std::vector<StreamState*> streams_;
  std::vector<std::exception_ptr>
      poison_;  // by stream, up to the last of which an operation failed
  // An array type in place of new[], whose count would take a cache line of its own.
  using Neighbours = std::array<StreamState, StreamState::neighbours>;
  std::vector<std::unique_ptr<Neighbours>> stream_blocks_;
  std::vector<StreamState> scripted_streams_;  // in place of them, where their number is known
  std::vector<std::unique_ptr<HostFlow>> flows_;
  HostFlow* compute_issuer_ = nullptr;  // the flow that issued to the compute stream last
  StepMarks steps_;
  std::unique_ptr<WorkTimes> work_;  // null: not kept

 private:
  TimeParts time_parts(Time at) const;
  Time exposed_since(const StreamState& stream, Time start) const;
};

// What a copy between two tensors costs.
const PreparedKernel& copy_price(Catalogue& catalogue, const Operand& from, const Operand& to);

// What a program's rank reports but for times: its channels' uses in the order of
// Rank::channels(), memory, operations.
void fill_from(const Rank& rank, RankReport& report);

inline bool SimRank::issued(HostFlow& flow, StreamState& stream, Time cost) {
  flow.clock += cost;
  ++stream.issued;
  if (stream.phase == StreamPhase::empty) {
    if (stream.is_compute) account_.host_blocked(flow.blocked_time - flow.at_gap);
    core_.streams->start(stream);
  }
  if (&stream == compute_) compute_issuer_ = &flow;
  const auto is_full = [&] { return stream.issued - stream.passed >= core_.options.launch_queue; };
  if (!is_full()) return false;
  core_.streams->settle(stream);
  return is_full();
}

}  // namespace orrery::sim
