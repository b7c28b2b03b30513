// A rank of the simulated world whose program runs in actors of its own.
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
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/device.hpp"
#include "backend/rank.hpp"
#include "sim/sim_rank.hpp"

namespace orrery::sim {

class SimDevice : public SimRank, public Device {
 public:
  SimDevice(Core& core, std::uint32_t id);
  ~SimDevice() override;

  // The body of the rank's first actor: runs the program, drains the streams, fills the report.
  void run_program(const World::Program& program, RankReport& report);
  void begin(ActorId first_flow) { flows_[0]->actor = first_flow; }

  const std::string& stream_name(std::uint32_t index) const override;
  void reconsider() override;
  DecisionLog& decisions() { return decisions_; }
  void deliver(ControlMessage message);
  void note_loss(Loss loss) { losses_.push_back(std::move(loss)); }

  // Device.
  void may_change(const Channel&) override {}
  std::optional<Loss> take_loss(Event event) override { return take_loss_from(losses_, event); }
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
  ValueOperation& with_value_operation(StreamState& stream);
  void fill_report(RankReport& report);
  void free_unmapped();

  // Flows (host_flows.cpp).
  HostState& as_passed();
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
  Error& add_context(Error& error, const HostFlow& flow) const;

  bool has_values_ = false;  // some tensor has
  std::unique_ptr<Rank> rank_;
  HostState host_;
  std::vector<Loss> losses_;                           // that the program has not been told
  std::vector<std::pair<Channel*, Collective>> uses_;  // what places_ are of
  HostFlow* baton_ = nullptr;  // who holds it: the flow that runs, or waits holding it
  std::uint32_t last_holder_ = 0;
  std::uint32_t flows_alive_ = 1;
  std::int64_t designated_ = -1;  // under replay, who gets it next; -1: the first that can run
  bool log_handover_ = false;
  DecisionLog decisions_;  // as the rank left it
  struct Unmapped {
    void* data;
    Event after;
  };
  std::vector<Unmapped> unmapped_;
};

}  // namespace orrery::sim
