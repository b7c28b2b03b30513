// A service: a thread beside the ranks that has control messages only.
#pragma once

#include <deque>
#include <map>
#include <string>
#include <thread>

#include "backend/host/device.hpp"
#include "backend/host/monitor.hpp"
#include "backend/service_log.hpp"
#include "backend/world.hpp"

namespace orrery::host {

class ControlService final : public Service, public Entity {
 public:
  ControlService(Shared& shared, int address, std::string name, World::ServiceProgram program);

  void start();
  void join();
  // With the lock.
  void receive(ControlMessage message);
  void ranks_have_ended();  // it may finish what it has received; then it unwinds from its receive
  const std::vector<ControlMessage>& mailbox() const { return mailbox_.mailbox; }

  DecisionLog take_decisions() { return log_.take(); }  // after join

  Seconds now() override { return log_.clock(shared_.monitor.now()).seconds(); }
  Random& rng(Purpose purpose) override;
  void control_send(int to, Tag tag, std::span<const std::int64_t> values, Site site) override;
  std::optional<ControlMessage> control_receive(Tag tag, int from, Seconds timeout) override;

  std::string who() const override { return "service " + name_; }
  std::string blocked_in() const override;
  bool idle() const override { return true; }  // it need not end: no party to a deadlock

 private:
  void run();

  Shared& shared_;
  const int address_;
  const std::string name_;
  World::ServiceProgram program_;
  HostState mailbox_;
  Tag tag_ = 0;  // what it waits for
  bool finishing_ = false;
  std::map<Purpose, Random> rngs_;
  ServiceLog log_;
  std::thread thread_;
};

}  // namespace orrery::host
