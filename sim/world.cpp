#include "sim/world.hpp"

#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "sim/collectives.hpp"
#include "sim/core.hpp"
#include "sim/cursor.hpp"
#include "sim/deadlock.hpp"
#include "sim/device.hpp"
#include "sim/folding.hpp"
#include "sim/interference.hpp"
#include "sim/mail.hpp"
#include "sim/neighbourhoods.hpp"
#include "sim/recording.hpp"
#include "sim/shared_cores.hpp"
#include "sim/streams.hpp"

namespace orrery {

bool simulates_flows(const SimOptions& options) {
  const auto contended = [](Fidelity fidelity) {
    return fidelity == Fidelity::flow || fidelity == Fidelity::messages;
  };
  bool needed = contended(options.fidelity);
  for (const GroupFidelity& group : options.groups) needed = needed || contended(group.fidelity);
  return needed;
}

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

class SimWorld : public World, public EngineClient {
 public:
  SimWorld(WorldOptions world, SimOptions options)
      : world_(std::move(world)), options_(std::move(options)) {}

  void add_service(const std::string& name, ServiceProgram program) override {
    services_.emplace_back(name, std::move(program));
  }

  RunReport run(const Program& program) override {
    ORRERY_ASSERT(core_ == nullptr, "a world runs once");
    make_catalogues();
    share(program);
    build();
    if (shared_)
      start_cursors();
    else
      start_actors(program);
    core_->engine.run();
    core_->mail->check_all_received();
    return finish();
  }

 private:
  // Records the program where that is wanted and can be.
  void share(const Program& program) {
    if (options_.execution == Execution::actors) return;
    const bool wanted = must_share();
    const auto ranks = static_cast<std::uint32_t>(world_.grid.size());
    if (world_.real_values)
      refusal_ = {"the run computes values, which differ by rank", {}};
    else if (!services_.empty())
      refusal_ = {"the run has services", {}};
    else if (world_.decisions != DecisionMode::free)
      refusal_ = {"the run records or replays decisions", {}};
    else
      try {
        shared_ = record_program(world_, *options_.machine, catalogue_, program,
                                 wanted ? ranks : ranks / 2, refusal_);
      } catch (const Error&) {
        if (wanted) throw;  // else the program meets its error in its own time
      }
    if (wanted && !shared_) refuse("one program cannot be issued for several ranks");
  }

  bool must_share() const {
    return options_.execution == Execution::shared || options_.execution == Execution::folded;
  }
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(Category::config, what + ": " + refusal_.text());
  }

  void build() {
    EngineOptions engine;
    const auto ranks = static_cast<std::uint32_t>(world_.grid.size());
    engine.actors = ranks + static_cast<std::uint32_t>(services_.size());
    core_ = std::make_unique<Core>(*this, std::move(world_), options_, engine);
    Core& core = *core_;
    core.streams = std::make_unique<Streams>(core);
    core.collectives = std::make_unique<Collectives>(core);
    core.mail = std::make_unique<Mail>(core, ranks);
    core.communications_interfere = core.machine.interferes();
    core.shared_cores = SharedCores::of(core);
    if (core.communications_interfere || core.shared_cores != nullptr)
      core.interference = std::make_unique<Interference>(core);
    core.state.catalogue = catalogue_;
    if (options_.trace != nullptr) core.trace = std::make_unique<TraceWriter>(*options_.trace);
    if (options_.link_bytes != nullptr)
      options_.link_bytes->assign(core.machine.links().size(), 0.0);
    if (simulates_flows(options_))
      for (const LinkSpec& link : core.machine.links()) core.engine.add_link(link.bandwidth);
    if (core.trace != nullptr && simulates_flows(options_)) trace_links();
  }

  void trace_links() {
    const std::uint32_t process = core_->rank_count();
    core_->trace->name_process(process, "links");
    core_->engine.watch_links(
        [&core = *core_, process](Time since, LinkId id, BytesPerSecond rate) {
          core.trace->counter(process, core.machine.links()[id.value].name, since, rate.value);
        });
  }

  void start_actors(const Program& program) {
    // Left to itself glibc, once a large block has been freed, takes stacks from its heap, and
    // clears (touches) half of each: 140 KiB a rank instead of 20.
    mallopt(M_MMAP_THRESHOLD, 128 * 1024);
    Core& core = *core_;
    const std::uint32_t ranks = core.rank_count();
    core.ranks.reserve(ranks);
    for (std::uint32_t rank = 0; rank < ranks; ++rank) {
      auto device = std::make_unique<SimDevice>(core, rank);
      core.devices.push_back(device.get());
      core.ranks.push_back(std::move(device));
    }
    for (const auto& [name, service] : services_) {
      core.state.services.push_back(name);
      core.mail->add_service(name);
    }
    report_.ranks.resize(ranks);
    for (std::uint32_t rank = 0; rank < ranks; ++rank) {
      SimDevice& device = *core.devices[rank];
      device.begin(core.engine.spawn(rank, 0, [&device, &program, this, rank] {
        device.run_program(program, report_.ranks[rank]);
      }));
    }
    for (std::size_t i = 0; i < services_.size(); ++i) {
      SimService& service = *core.mail->services()[i];
      const auto actor = ranks + static_cast<std::uint32_t>(i);
      service.begin(
          core.engine.spawn(actor, 0, [&service, this, i] { service.run(services_[i].second); }));
    }
  }

  void start_cursors() {
    Core& core = *core_;
    const bool wanted = options_.execution == Execution::folded;
    if (wanted || options_.execution == Execution::automatic) {
      folded_ = fold(*shared_, core, refusal_);
      if (wanted && !folded_) refuse("ranks cannot be folded");
    }
    if (folded_) core.state.communicators.set_partition(&*folded_);
    for (std::uint32_t number = 0; number < shared_->classes.classes(); ++number) {
      const int first = shared_->classes.representatives[number];
      const HostCosts costs = options_.host_clock ? core.machine.host(first) : HostCosts{};
      scripts_.push_back(scripts_of(shared_->recordings[number], costs));
    }
    for (std::uint32_t rank = 0; rank < core.rank_count(); ++rank) {
      if (folded_ && !folded_->represents(static_cast<int>(rank))) continue;
      const std::uint32_t number = shared_->classes.class_of[rank];
      auto cursor =
          std::make_unique<SimCursor>(core, rank, shared_->recordings[number], scripts_[number]);
      core.woken.push_back(cursor.get());
      core.ranks.push_back(std::move(cursor));
    }
    hosts_left_ = core.ranks.size();
    if (auto near = find_neighbourhoods(core, *shared_)) {
      for (const Communicator* const communicator : near->crossing)
        core.collectives->crosses(*communicator);
      if (options_.neighbourhood_of != nullptr) *options_.neighbourhood_of = near->number_of;
      core.engine.set_neighbourhoods(std::move(near->number_of));
    }
  }

  // One per kind of GPU.
  void make_catalogues() {
    std::map<int, Catalogue*> by_kind;
    const int ranks = world_.grid.size();
    std::vector<Catalogue*> by_rank;
    for (int rank = 0; rank < ranks; ++rank) {
      const int kind = options_.machine->kind(rank);
      Catalogue*& catalogue = by_kind[kind];
      if (catalogue == nullptr)
        catalogue = catalogues_
                        .emplace_back(std::make_unique<Catalogue>([&machine = *options_.machine,
                                                                   kind](PreparedKernel& kernel) {
                          kernel.duration = machine.kernel_time(kernel.kernel, kernel.cost, kind);
                        }))
                        .get();
      by_rank.push_back(catalogue);
    }
    if (by_kind.size() == 1) by_rank.resize(1);
    catalogue_ = [by_rank](int rank) -> Catalogue& {
      return *by_rank[by_rank.size() == 1 ? 0 : static_cast<std::size_t>(rank)];
    };
  }

  RunReport finish() {
    Core& core = *core_;
    if (core.trace != nullptr) core.trace->finish();
    report_.end = core.end;
    report_.flows = core.engine.counters().flows;
    for (std::size_t i = 0; i < core.ranks.size(); ++i) {
      std::uint64_t operations = 0;
      for (const StreamState* stream : core.ranks[i]->streams()) operations += stream->passed;
      report_.activities +=
          operations * (folded_ ? static_cast<std::uint64_t>(folded_->sizes[i]) : 1);
    }
    if (folded_)
      report_.ranks.share(folded_->class_of, core.ranks.size());
    else
      report_.ranks.resize(core.ranks.size());
    if (shared_) {
      for (std::size_t i = 0; i < core.ranks.size(); ++i)
        static_cast<SimCursor&>(*core.ranks[i]).fill_report(report_.ranks[core.ranks[i]->id()]);
    }
    if (core.state.options.decisions == DecisionMode::record)
      for (SimDevice* const device : core.devices)
        report_.decisions.push_back(std::move(device->decisions()));
    if (core.state.options.decisions == DecisionMode::record)
      for (const auto& service : core.mail->services())
        report_.decisions.push_back(service->take_decisions());
    return std::move(report_);
  }

  // Hosts that have an instant in common go on in the order of their ranks, as actors would.
  bool run_hosts() override {
    Core& core = *core_;
    if (core.woken.empty()) return false;
    std::swap(core.woken, going_on_);
    const auto earlier = [](const SimCursor* a, const SimCursor* b) { return a->id() < b->id(); };
    if (!std::is_sorted(going_on_.begin(), going_on_.end(), earlier))
      std::sort(going_on_.begin(), going_on_.end(), earlier);
    for (SimCursor* const cursor : going_on_) {
      cursor->go_on();
      if (cursor->ended()) --hosts_left_;
    }
    going_on_.clear();
    return true;
  }
  bool hosts_left() const override { return hosts_left_ > 0; }

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
      case Due::stream_settles:
        core.streams->settle_due(object_of<StreamState>(payload));
        break;
      case Due::threads_counted:
        object_of<SharedCores>(payload).count();
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
      case Due::transfer_member:
        core.collectives->member_due(object_of<StreamState>(payload));
        break;
      case Due::transfer_awaited:
        break;  // the engine asks whether it still is
      case Due::transfer_lost:
        core.collectives->lost_due(object_of<Transfer>(payload));
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
        object_of<HostFlow>(payload).rank->reconsider();
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

  // With thousands of ranks every operation finds its stream, and what is around it, out of the
  // cache.
  void approaches(int level, std::uint64_t payload) override {
    if (level == 4) {
      const auto* const object = &object_of<const char>(payload);
      __builtin_prefetch(object);
      __builtin_prefetch(object + 64);
      __builtin_prefetch(object + 128);
    } else if (what_is_due(payload) == Due::operation) {
      const auto& stream = object_of<const StreamState>(payload);
      if (level == 3) stream.prefetch_around();
      if (level == 2) stream.device->prefetch_places();
      if (level == 1 && stream.run_end >= stream.host_threshold) stream.device->prefetch_host();
    } else if (what_is_due(payload) == Due::transfer) {
      const auto& transfer = object_of<const Transfer>(payload);
      if (level == 3) __builtin_prefetch(transfer.members.data());
      if (level == 2) transfer.for_last([](const StreamState& s) { s.prefetch(); });
      if (level == 1) transfer.for_last([](const StreamState& s) { s.prefetch_around(); });
      if (level == 0) transfer.for_last([](const StreamState& s) { s.device->prefetch_places(); });
    }
  }

  Time awaited(std::uint64_t payload) override { return core_->collectives->awaited(payload); }

  void stuck() override { throw describe_deadlock(*core_); }

  WorldOptions world_;
  SimOptions options_;
  std::vector<std::pair<std::string, ServiceProgram>> services_;
  RunReport report_;
  std::vector<std::unique_ptr<Catalogue>> catalogues_;
  std::function<Catalogue&(int)> catalogue_;
  Refusal refusal_;
  std::optional<SharedProgram> shared_;
  std::vector<std::vector<StreamScript>> scripts_;  // by class, then stream
  std::optional<Partition> folded_;
  std::vector<SimCursor*> going_on_;
  std::size_t hosts_left_ = 0;
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
  if (sim.throttle && simulates_flows(sim))
    throw invalid("throttled links are timed by a formula: use analytic fidelity");
  if (sim.launch_queue < 2) throw invalid("a launch queue holds at least two operations");
  return std::make_unique<sim::SimWorld>(std::move(options), std::move(sim));
}

}  // namespace orrery
