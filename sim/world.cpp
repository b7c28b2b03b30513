#include "sim/world.hpp"

#include <fmt/format.h>
#include <malloc.h>

#include <map>
#include <utility>

#include "sim/collectives.hpp"
#include "sim/core.hpp"
#include "sim/deadlock.hpp"
#include "sim/device.hpp"
#include "sim/mail.hpp"
#include "sim/streams.hpp"

namespace orrery {

namespace sim {

std::string time_text(Time time) {
  return fmt::format("{}.{:06} us", time.picoseconds / 1'000'000, time.picoseconds % 1'000'000);
}

Core::Core(EngineClient& client, WorldOptions world, const SimOptions& sim,
           const EngineOptions& engine_options)
    : options(sim),
      machine(*sim.machine),
      state(std::move(world)),
      engine(client, engine_options) {}
Core::~Core() = default;

namespace {

bool needs_links(const SimOptions& options) {
  const auto contended = [](Fidelity fidelity) {
    return fidelity == Fidelity::flow || fidelity == Fidelity::messages;
  };
  bool needed = contended(options.fidelity);
  for (const GroupFidelity& group : options.groups) needed = needed || contended(group.fidelity);
  return needed;
}

class SimWorld : public World, public EngineClient {
 public:
  SimWorld(WorldOptions world, SimOptions options)
      : world_(std::move(world)), options_(std::move(options)) {}

  void add_service(const std::string& name, ServiceProgram program) override {
    services_.emplace_back(name, std::move(program));
  }

  RunReport run(const Program& program) override {
    ORRERY_ASSERT(core_ == nullptr, "a world runs once");
    build();
    report_.ranks.resize(core_->ranks());
    for (std::uint32_t rank = 0; rank < core_->ranks(); ++rank) {
      SimDevice& device = *core_->devices[rank];
      device.begin(core_->engine.spawn(rank, 0, [&device, &program, this, rank] {
        device.run_program(program, report_.ranks[rank]);
      }));
    }
    for (std::size_t i = 0; i < services_.size(); ++i) {
      SimService& service = *core_->mail->services()[i];
      const auto actor = core_->ranks() + static_cast<std::uint32_t>(i);
      service.begin(
          core_->engine.spawn(actor, 0, [&service, this, i] { service.run(services_[i].second); }));
    }
    core_->engine.run();
    core_->mail->check_all_received();
    return finish();
  }

 private:
  void build() {
    EngineOptions engine;
    const auto ranks = static_cast<std::uint32_t>(world_.grid.size());
    engine.actors = ranks + static_cast<std::uint32_t>(services_.size());
    core_ = std::make_unique<Core>(*this, std::move(world_), options_, engine);
    // Left to itself glibc, once a large block has been freed, takes stacks from its heap, and
    // clears (touches) half of each: 140 KiB a rank instead of 20.
    mallopt(M_MMAP_THRESHOLD, 128 * 1024);
    Core& core = *core_;
    core.streams = std::make_unique<Streams>(core);
    core.collectives = std::make_unique<Collectives>(core);
    core.mail = std::make_unique<Mail>(core, ranks);
    if (options_.trace != nullptr) core.trace = std::make_unique<TraceWriter>(*options_.trace);
    if (options_.link_bytes != nullptr)
      options_.link_bytes->assign(core.machine.links().size(), 0.0);
    if (needs_links(options_))
      for (const LinkSpec& link : core.machine.links()) core.engine.add_link(link.bandwidth);
    make_catalogues(ranks);
    core.devices.reserve(ranks);
    for (std::uint32_t rank = 0; rank < ranks; ++rank)
      core.devices.push_back(std::make_unique<SimDevice>(core, rank));
    for (const auto& [name, service] : services_) {
      core.state.services.push_back(name);
      core.mail->add_service(name);
    }
  }

  // One per kind of GPU.
  void make_catalogues(std::uint32_t ranks) {
    Core& core = *core_;
    std::map<int, Catalogue*> by_kind;
    std::vector<Catalogue*> by_rank;
    for (std::uint32_t rank = 0; rank < ranks; ++rank) {
      const int kind = core.machine.kind(static_cast<int>(rank));
      Catalogue*& catalogue = by_kind[kind];
      if (catalogue == nullptr) {
        core.catalogues.push_back(
            std::make_unique<Catalogue>([&machine = core.machine, kind](PreparedKernel& kernel) {
              kernel.duration = machine.kernel_time(kernel.kernel, kernel.cost, kind);
            }));
        catalogue = core.catalogues.back().get();
      }
      if (by_kind.size() > 1 || rank == 0) by_rank.resize(ranks, by_kind.begin()->second);
      by_rank[rank] = catalogue;
    }
    if (by_kind.size() == 1) by_rank.resize(1);
    core.state.catalogue = [by_rank](int rank) -> Catalogue& {
      return *by_rank[by_rank.size() == 1 ? 0 : static_cast<std::size_t>(rank)];
    };
  }

  RunReport finish() {
    Core& core = *core_;
    if (core.trace != nullptr) core.trace->finish();
    report_.end = core.end;
    report_.activities = core.activities;
    report_.flows = core.engine.counters().flows;
    if (core.state.options.decisions == DecisionMode::record)
      for (const auto& device : core.devices)
        report_.decisions.push_back(std::move(device->decisions()));
    return std::move(report_);
  }

  void due(Time now, const Key&, std::uint64_t payload) override {
    Core& core = *core_;
    core.delivering = true;
    core.now = now;
    switch (what_is_due(payload)) {
      case Due::operation:
        core.streams->operation_due(object_of<StreamState>(payload));
        break;
      case Due::operation_reads:
        core.streams->reads_due(object_of<StreamState>(payload));
        break;
      case Due::stream_wakes:
        core.streams->wakes(object_of<StreamState>(payload));
        break;
      case Due::transfer:
        core.collectives->transfer_due(object_of<Transfer>(payload));
        break;
      case Due::transfer_reads:
        core.collectives->reads_due(object_of<Transfer>(payload));
        break;
      case Due::transfer_writes:
        core.collectives->writes_due(object_of<StreamState>(payload));
        break;
      case Due::transfer_flow:
        core.collectives->flow_due(object_of<Transfer>(payload));
        break;
      case Due::ring_sends:
        core.collectives->ring_sends(object_of<RingMember>(payload));
        break;
      case Due::ring_receives:
        core.collectives->ring_receives(object_of<RingMember>(payload));
        break;
      case Due::flow_wakes:
        object_of<HostFlow>(payload).device->reconsider();
        break;
      case Due::service_wakes:
        object_of<SimService>(payload).wake();
        break;
      case Due::message:
        core.mail->due(object_of<MessageInFlight>(payload));
        break;
    }
    core.delivering = false;
  }

  // With thousands of ranks every operation finds its stream out of the cache.
  void soon(std::uint64_t payload) override {
    const auto* const object = &object_of<const char>(payload);
    __builtin_prefetch(object);
    __builtin_prefetch(object + 64);
  }

  void stuck() override { throw describe_deadlock(*core_); }

  WorldOptions world_;
  SimOptions options_;
  std::vector<std::pair<std::string, ServiceProgram>> services_;
  RunReport report_;
  std::unique_ptr<Core> core_;
};

}  // namespace
}  // namespace sim

std::unique_ptr<World> make_sim_world(WorldOptions options, SimOptions sim) {
  const auto invalid = [](const std::string& why) { return Error(Category::config, why); };
  if (sim.machine == nullptr) throw invalid("the simulated world needs a machine");
  if (sim.machine->gpus() < options.grid.size())
    throw invalid("the machine has " + std::to_string(sim.machine->gpus()) + " GPUs for " +
                  std::to_string(options.grid.size()) + " ranks");
  if (sim.throttle && sim::needs_links(sim))
    throw invalid("throttled links are timed by a formula: use analytic fidelity");
  if (sim.launch_queue < 2) throw invalid("a launch queue holds at least two operations");
  return std::make_unique<sim::SimWorld>(std::move(options), std::move(sim));
}

}  // namespace orrery
