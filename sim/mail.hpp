// Control messages, and the services that read and write them.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/service_log.hpp"
#include "backend/world.hpp"
#include "sim/core.hpp"

namespace orrery::sim {

class Mail;

// A control-only program beside the ranks. Its actor's rank number follows those of the ranks.
class SimService : public Service {
 public:
  SimService(Core& core, std::uint32_t address, std::string name)
      : core_(core),
        address_(address),
        name_(std::move(name)),
        log_(core.state.options, static_cast<int>(address)) {}

  // The body of its actor.
  void run(const World::ServiceProgram& program);
  void begin(ActorId actor) { actor_ = actor; }
  void deliver(ControlMessage message);
  void wake() { core_.engine.make_runnable(actor_); }
  const std::string& name() const { return name_; }
  const std::vector<ControlMessage>& mailbox() const { return mailbox_; }

  DecisionLog take_decisions() { return log_.take(); }

  Seconds now() override { return log_.clock(core_.engine.now()).seconds(); }
  Random& rng(Purpose purpose) override;
  void control_send(int to, Tag tag, std::span<const std::int64_t> values, Site site) override;
  std::optional<ControlMessage> control_receive(Tag tag, int from, Seconds timeout) override;

 private:
  Core& core_;
  std::uint32_t address_;
  std::string name_;
  ActorId actor_ = no_actor;
  std::vector<ControlMessage> mailbox_;
  std::map<Purpose, Random> rngs_;
  ServiceLog log_;
};

struct MessageInFlight {
  int to = 0;
  ControlMessage message;
};

class Mail {
 public:
  Mail(Core& core, std::uint32_t ranks) : core_(core), ranks_running_(ranks) {}

  SimService& add_service(const std::string& name);
  const std::vector<std::unique_ptr<SimService>>& services() const { return services_; }

  void send(std::uint32_t from, int to, ControlMessage message, Time latency);
  void due(MessageInFlight& message);

  void rank_ended();
  std::uint32_t ranks_running() const { return ranks_running_; }
  // Services end: all ranks have, and nothing is under way to any of them.
  bool stopping() const { return ranks_running_ == 0 && in_flight_ == 0; }
  // Error{mismatch} for messages that nobody received.
  void check_all_received() const;

 private:
  void stop_services_when_over();

  Core& core_;
  std::uint32_t ranks_running_;
  std::uint64_t in_flight_ = 0;
  std::vector<std::unique_ptr<SimService>> services_;
  std::deque<MessageInFlight> messages_;
  std::vector<MessageInFlight*> free_;
};

}  // namespace orrery::sim
