#include "backend/cuda/world.hpp"

#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "backend/cuda/device.hpp"
#include "backend/cuda/pool.hpp"
#include "backend/host/world.hpp"

namespace orrery::cuda {

namespace {

using host::Entity;
using host::Lock;

Seconds steady_now() {
  return Seconds(
      std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count());
}

CudaOptions complete(CudaOptions options) {
  if (!options.clock) options.clock = steady_now;
  return options;
}

// Asks devices how far they are. It counts as running while operations are in flight, so that hosts
// which all wait for their devices are no deadlock; a device that waits for ever is one by
// patience.
class Watcher final : public Entity {
 public:
  Watcher(host::Monitor& monitor, CudaParts& parts) : monitor_(monitor), parts_(parts) {}

  void start(std::vector<CudaDevice*> devices) {
    devices_ = std::move(devices);
    still_since_.assign(devices_.size(), std::nullopt);
    {
      const Lock lock(monitor_.mutex());
      monitor_.add(*this, true);
    }
    thread_ = std::thread([this] { run(); });
  }
  void submitted() {
    if (!sleeping_.load(std::memory_order_seq_cst) || !sleeping_.exchange(false)) return;
    const Lock lock(monitor_.mutex());
    monitor_.make_ready(*this);
  }
  void stop() {
    if (!thread_.joinable()) return;
    {
      const Lock lock(monitor_.mutex());
      stop_ = true;
      monitor_.make_ready(*this);
    }
    thread_.join();
  }

  std::string who() const override { return "watcher of the devices"; }
  std::string blocked_in() const override { return ""; }
  bool idle() const override { return true; }

 private:
  void run() {
    try {
      while (wait_for_work()) look();
    } catch (...) {
      fail(std::current_exception());
      // Of all: a program's thread may be stuck in a call behind what only this ends.
      for (CudaDevice* device : devices_) device->abort();
    }
    const Lock lock(monitor_.mutex());
    monitor_.remove(*this);
  }
  void fail(std::exception_ptr failure) {
    const Lock lock(monitor_.mutex());
    monitor_.fail(std::move(failure));
  }

  bool wait_for_work() {
    if (parts_.in_flight.load() > 0 && !monitor_.failed()) return true;
    Lock lock(monitor_.mutex());
    while (true) {
      sleeping_.store(true, std::memory_order_seq_cst);
      if (stop_ || parts_.in_flight.load() > 0) break;
      monitor_.block(lock, *this);
    }
    sleeping_.store(false, std::memory_order_relaxed);
    return !stop_;
  }

  void look() {
    bool moved = false;
    const Seconds now = parts_.options.clock();
    for (std::size_t i = 0; i < devices_.size(); ++i) {
      CudaDevice::Look seen = CudaDevice::Look::nothing_moved;
      try {
        seen = devices_[i]->look();
      } catch (...) {
        throw_named(std::current_exception(), devices_[i]->rank());
      }
      moved = moved || seen == CudaDevice::Look::moved;
      if (seen != CudaDevice::Look::nothing_moved)
        still_since_[i].reset();
      else if (!still_since_[i])
        still_since_[i] = now;
      else if ((now - *still_since_[i]).value > parts_.options.patience.value)
        give_up();
    }
    monitor_.throw_if_failed();
    if (!moved) std::this_thread::sleep_for(std::chrono::microseconds(20));
  }

  [[noreturn]] static void throw_named(std::exception_ptr failure, int rank) {
    std::rethrow_exception(host::with_context(failure, {{"rank", std::to_string(rank)}}));
  }

  [[noreturn]] void give_up() {
    Error error(Category::deadlock,
                "nothing has moved for " +
                    std::to_string(static_cast<long>(parts_.options.patience.value)) +
                    " s: everything waits for something else");
    for (CudaDevice* device : devices_)
      for (auto& [who, what] : device->waiting()) error.with(who, what);
    throw error;
  }

  host::Monitor& monitor_;
  CudaParts& parts_;
  std::vector<CudaDevice*> devices_;
  // By device: when it was first seen to stand still with operations on their way. Not when it last
  // moved, which may be long ago where it had nothing to do.
  std::vector<std::optional<Seconds>> still_since_;
  std::atomic<bool> sleeping_{false};
  bool stop_ = false;  // guarded by the lock
  std::thread thread_;
};

// Stands for the ranks of other processes: while one of them has not ended, what waits here may yet
// be woken by it.
struct Elsewhere final : Entity {
  std::string who() const override { return "ranks of other processes"; }
  std::string blocked_in() const override { return ""; }
  bool idle() const override { return true; }
};

class CudaWorld final : public host::HostWorld {
 public:
  CudaWorld(WorldOptions options, CudaOptions cuda)
      : HostWorld(std::move(options), cuda.first_rank, cuda.ranks_here),
        options_(complete(std::move(cuda))),
        parts_{options_, *state().options.bodies, [this] { watcher_.submitted(); },
               [this] { first_step_issued(); }},
        watcher_(monitor(), parts_) {}
  ~CudaWorld() override {
    watcher_.stop();
    forget_devices();
  }

 private:
  std::unique_ptr<host::HostDevice> make_device(host::Shared& shared, int rank) override {
    return std::make_unique<CudaDevice>(shared, parts_, rank);
  }
  // By a launcher of its own for each GPU, as those of ranks are used by their threads.
  void prepared(const Kernel& kernel) override {
    const std::lock_guard lock(preparing_);
    for (int rank = first_rank(); rank < end_rank(); ++rank) {
      const int gpu = options_.gpu(rank);
      if (preparers_.contains(gpu)) continue;
      use_gpu(gpu);
      preparers_.emplace(gpu, options_.launcher(gpu, [](std::exception_ptr) {}));
    }
    for (const auto& [gpu, preparer] : preparers_) {
      use_gpu(gpu);
      preparer->prepare(kernel);
    }
  }
  void begin() override {
    std::vector<int> gpus;
    for (int rank = first_rank(); rank < end_rank(); ++rank) gpus.push_back(options_.gpu(rank));
    pools_.emplace(std::move(gpus));
    std::vector<CudaDevice*> devices;
    for (int rank = first_rank(); rank < end_rank(); ++rank)
      devices.push_back(&static_cast<CudaDevice&>(device(rank)));
    watcher_.start(std::move(devices));
    if (options_.peers == nullptr) return;
    {
      const Lock lock(monitor().mutex());
      monitor().add(elsewhere_, true);
      others_run_ = true;
    }
    options_.peers->listen({[this](int to, ControlMessage m) { deliver(to, std::move(m)); },
                            [this](std::exception_ptr lost) {
                              const Lock lock(monitor().mutex());
                              monitor().fail(lost);
                            },
                            [this] { others_have_ended(); }});
  }
  void end() override {
    if (options_.peers != nullptr) options_.peers->listen({});
    others_have_ended();
    watcher_.stop();
  }
  void add_to(RunReport& report) const override {
    report.pool = pools_->use();
    if (options_.profiler == nullptr) return;
    const std::vector<GpuActivity> activities = options_.profiler->take();
    for (int rank = first_rank(); rank < end_rank(); ++rank)
      report.ranks[static_cast<std::size_t>(rank)].native =
          static_cast<CudaDevice&>(device(rank)).native(activities);
  }
  void first_step_issued() {
    if (first_steps_.fetch_add(1) + 1 == end_rank() - first_rank()) pools_->first_step_ended();
  }
  void others_have_ended() {
    const Lock lock(monitor().mutex());
    if (std::exchange(others_run_, false)) monitor().remove(elsewhere_);
  }
  void post(int to, ControlMessage message) override { options_.peers->send(to, message); }

  const CudaOptions options_;
  CudaParts parts_;
  Watcher watcher_;
  std::mutex preparing_;
  std::map<int, std::unique_ptr<Launcher>> preparers_;  // by GPU; guarded
  std::optional<PoolWatch> pools_;
  std::atomic<int> first_steps_{0};  // that ranks have issued
  Elsewhere elsewhere_;
  bool others_run_ = false;  // guarded by the lock
};

}  // namespace

std::unique_ptr<World> make_cuda_world(WorldOptions options, CudaOptions cuda) {
  if (!options.real_values)
    throw Error(Category::invalid_program, "a run on GPUs computes values: run.values: real");
  ORRERY_ASSERT(options.bodies != nullptr, "streams of the host need bodies");
  return std::make_unique<CudaWorld>(std::move(options), std::move(cuda));
}

}  // namespace orrery::cuda
