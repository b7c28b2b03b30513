// A real world: ranks are threads of this process, each with a device that the derived world makes.
// Other ranks may be in other processes; then a report holds those of this one only.
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
  // Of `count` ranks from `first` on; all by default.
  explicit HostWorld(WorldOptions options, int first = 0, int count = -1);
  // What devices refer to in the derived world must outlive them: its destructor calls this first.
  void forget_devices() { devices_.clear(); }

  virtual std::unique_ptr<HostDevice> make_device(Shared& shared, int rank) = 0;
  // Called on the thread of run(): when all devices are made and none runs; when none runs any
  // more.
  virtual void begin() {}
  // A kernel that programs may launch, when the first of them prepares it, on its thread.
  virtual void prepared(const Kernel&) {}
  // A message for a rank of another process; without the lock.
  virtual void post(int to, ControlMessage message);
  virtual void end() {}
  // A rank's program has ended, and what its streams were given; with the lock.
  virtual void rank_ended(int) {}
  virtual void add_to(RunReport&) const {}  // what only the derived world knows, after end()

  Monitor& monitor() { return monitor_; }
  WorldState& state() { return state_; }
  HostDevice& device(int rank) const { return *devices_[static_cast<std::size_t>(rank - first_)]; }
  bool is_here(int rank) const { return rank >= first_ && rank < first_ + count_; }
  int first_rank() const { return first_; }
  int end_rank() const { return first_ + count_; }
  // From a rank of another process, or from this one.
  void deliver(int to, ControlMessage message);

 private:
  // Stands for the ranks whose threads have not begun.
  struct Starting final : Entity {
    std::string who() const override { return "world"; }
    std::string blocked_in() const override { return "start"; }
  };

  void run_rank(int id, const Program& program);
  void begin_counted();
  void program_ended(int rank);
  std::string address(int number) const;
  void check_messages() const;
  void finish_report();

  WorldState state_;
  Catalogue catalogue_;
  Monitor monitor_;
  const int ranks_, first_, count_;
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
