#include "backend/cpu/world.hpp"

#include "backend/cpu/bodies.hpp"
#include "backend/cpu/device.hpp"
#include "backend/host/world.hpp"

namespace orrery {

namespace cpu {

namespace {

class CpuWorld final : public host::HostWorld {
 public:
  CpuWorld(WorldOptions options, CpuOptions cpu)
      : HostWorld(std::move(options)),
        meetings_(monitor(), cpu.throttle),
        parts_{meetings_,
               state().options.bodies != nullptr ? *state().options.bodies : cpu_bodies()} {}
  ~CpuWorld() override { forget_devices(); }

 private:
  std::unique_ptr<host::HostDevice> make_device(host::Shared& shared, int rank) override {
    return std::make_unique<CpuDevice>(shared, parts_, rank);
  }

  void rank_ended(int rank) override { meetings_.rank_ended(rank); }

  Meetings meetings_;
  CpuParts parts_;
};

}  // namespace

}  // namespace cpu

std::unique_ptr<World> make_cpu_world(WorldOptions options, CpuOptions cpu) {
  return std::make_unique<cpu::CpuWorld>(std::move(options), cpu);
}

}  // namespace orrery
