// A real world: ranks are threads of this process, each with a device that the derived world makes.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "backend/host/device.hpp"
#include "backend/host/monitor.hpp"
#include "backend/host/service.hpp"
#include "backend/world.hpp"

namespace orrery::host {

class HostWorld : public World {
 public:
  void add_service(const std::string& name, ServiceProgram program) override;
  RunReport run(const Program& program) override;

 protected:
  explicit HostWorld(WorldOptions options);
  // What devices refer to in the derived world must outlive them: its destructor calls this first.
  void forget_devices() { devices_.clear(); }

  virtual std::unique_ptr<HostDevice> make_device(Shared& shared, int rank) = 0;
  // Called on the thread of run(): when all devices are made and none runs; when none runs any
  // more.
  virtual void begin() {}
  virtual void end() {}

  Monitor& monitor() { return monitor_; }
  WorldState& state() { return state_; }
  HostDevice& device(int rank) { return *devices_[static_cast<std::size_t>(rank)]; }
  int ranks() const { return ranks_; }

 private:
  // Stands for the ranks whose threads have not begun.
  struct Starting final : Entity {
    std::string who() const override { return "world"; }
    std::string blocked_in() const override { return "start"; }
  };

  void run_rank(int id, const Program& program);
  void begin_counted();
  void rank_ended();
  void deliver(int to, ControlMessage message);
  std::string address(int number) const;
  void check_messages() const;
  void finish_report();

  WorldState state_;
  Catalogue catalogue_;
  Monitor monitor_;
  const int ranks_;
  Shared shared_;
  Starting starting_;
  std::condition_variable all_begun_;
  int begun_ = 0;  // guarded by the lock, as ranks_left_
  int ranks_left_ = 0;
  RunReport report_;
  std::vector<std::unique_ptr<ControlService>> services_;
  std::vector<std::unique_ptr<HostDevice>> devices_;
};

}  // namespace orrery::host
