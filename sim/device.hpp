// One rank of the simulated world: its streams, host flows and reports.
//
// The flows of a rank share a baton. It passes in waits and at the end of flows only, to the first
// flow in cyclic order behind its last holder that can run; a flow that waits for its own clock or
// for room in a launch queue keeps it. Each passing is a decision {handover, who held it, who gets
// it}, also when that is the same flow, while the rank has more than one: as in the other worlds.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/device.hpp"
#include "backend/rank.hpp"
#include "sim/core.hpp"
#include "sim/stream_state.hpp"
#include "sim/time_account.hpp"

namespace orrery::sim {

// A host flow. Its clock runs ahead of the engine while it issues.
struct HostFlow {
  enum class Blocked : std::uint8_t {
    no,
    baton,  // wants to begin
    wait,   // in a wait of its program
    clock,  // until the engine reaches its clock
    queue,  // until a stream has passed an operation: its launch queue is full
    drain   // until all streams of the rank have ended
  };
  SimDevice* device = nullptr;
  std::uint32_t flow = 0;
  std::string name;
  ActorId actor = no_actor;
  Time clock;
  Blocked blocked = Blocked::no;
  bool ended = false;
  const Wait* wait = nullptr;  // Blocked::wait
  Event room;                  // Blocked::queue
  WaitClass wait_class = WaitClass::idle;
  Time blocked_from;         // on its own clock
  BlockedTime blocked_time;  // of waits that are over
  BlockedTime at_gap;        // as it was when the compute stream became empty

  BlockedTime blocked_until(Time now) const;
};

// This rank's place on a channel, per kind of operation, and what it adds to the ChannelUse.
struct ChannelPlace {
  Channel* channel = nullptr;
  Collective kind = Collective::all_reduce;
  int member = 0;
  Time busy, exposed;
};

class alignas(64) SimDevice : public Device {
 public:
  SimDevice(Core& core, std::uint32_t id);
  ~SimDevice() override;

  // The body of the rank's first actor: runs the program, drains the streams, fills the report.
  void run_program(const World::Program& program, RankReport& report);
  void begin(ActorId first_flow) { flows_[0]->actor = first_flow; }

  std::uint32_t id() const { return id_; }
  StreamState& stream(std::uint32_t index) { return *streams_[index]; }
  const std::vector<StreamState*>& streams() const { return streams_; }
  const std::string& stream_name(std::uint32_t index) const {
    return rank_->streams()[index]->name();
  }
  const std::vector<std::unique_ptr<HostFlow>>& flows() const { return flows_; }
  const ChannelPlace& channel_place(std::uint32_t index) const { return places_[index]; }
  std::exception_ptr& poison_of(const StreamState& stream) { return poison_[stream.index]; }
  bool ended() const { return flows_[0]->ended; }
  Time launch_cost() const { return costs_.launch; }
  DecisionLog& decisions() { return decisions_; }

  // For the streams, in phase 1.
  void reconsider();  // wakes the flows that can go on
  void compute_gap_begins();
  void note_step(StreamState& stream, std::int64_t step, Time at);
  void count_communication(const StreamState& stream, Time start);
  // The exception being handled, with what is known of the stream's head.
  std::exception_ptr failure_here(const StreamState& stream) const;
  void deliver(ControlMessage message);

  // Device.
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
  HostState& host() override;
  std::uint32_t current_flow() override { return baton_->flow; }
  bool block(const Wait& wait) override;
  bool done(Event event) override;
  std::exception_ptr failure(Event event) override;
  Time now() override;
  void fork(std::uint32_t flow, const std::string& name, std::function<void()> body) override;
  void raise(Signal& signal) override;
  void take(Signal& signal) override;
  void send(int to, ControlMessage message) override;
  ControlMessage take_message(Tag tag, int from) override;

 private:
  // Issuing (device.cpp).
  void push(StreamState& stream, const Entry& entry, Time cost);
  void wait_for_room(StreamState& stream);
  ValueOperation& with_value_operation(StreamState& stream);

  // Flows (host_flows.cpp).
  void run_fork(HostFlow& flow, const std::function<void()>& body);
  void end_flow(HostFlow& flow);
  void drain(HostFlow& flow);
  void catch_up(HostFlow& flow);
  void suspend(HostFlow& flow, HostFlow::Blocked why);
  bool can_go_on(const HostFlow& flow) const;
  bool can_take_baton(const HostFlow& flow) const;
  HostFlow* next_holder() const;
  void take_baton(HostFlow& flow);
  void release_baton(HostFlow& flow, Site site);
  void watch(const HostFlow& flow);
  void update_thresholds();
  WaitClass class_of(const Wait& wait) const;
  Error& add_context(Error& error, const HostFlow& flow) const;

  // Reports (device_report.cpp).
  TimeParts time_parts(Time at) const;
  Time exposed_since(const StreamState& stream, Time start) const;
  void fill_report(RankReport& report);
  void free_unmapped();

  Core& core_;
  // What ends of communications touch.
  StreamState* compute_ = nullptr;
  std::vector<ChannelPlace> places_;
  std::uint32_t id_;
  HostCosts costs_;
  bool host_clock_;
  bool has_values_ = false;  // some tensor has
  std::unique_ptr<Rank> rank_;
  HostState host_;
  std::vector<std::exception_ptr> poison_;                     // by stream: why an operation failed
  std::vector<std::unique_ptr<StreamState[]>> stream_blocks_;  // of StreamState::neighbours
  std::vector<StreamState*> streams_;
  std::vector<std::unique_ptr<HostFlow>> flows_;
  HostFlow* baton_ = nullptr;  // who holds it: the flow that runs, or waits holding it
  std::uint32_t last_holder_ = 0;
  std::uint32_t flows_alive_ = 1;
  std::int64_t designated_ = -1;  // under replay, who gets it next; -1: the first that can run
  bool log_handover_ = false;
  HostFlow* compute_issuer_ = nullptr;  // the flow that issued to the compute stream last
  std::vector<StepMark> steps_;
  DecisionLog decisions_;  // as the rank left it
  struct Unmapped {
    void* data;
    Event after;
  };
  std::vector<Unmapped> unmapped_;
};

}  // namespace orrery::sim
