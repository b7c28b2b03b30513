#include "sim/simgrid/engine.hpp"

#include <csignal>
#include <memory>
#include <optional>
#include <simgrid/kernel/resource/Model.hpp>
#include <simgrid/s4u.hpp>
#include <string>
#include <utility>
#include <vector>

// After another header of SimGrid: it does not include what it needs.
#include <simgrid/version.h>

#include "backend/core/error.hpp"
#include "sim/simgrid/actors.hpp"
#include "sim/simgrid/event_queue.hpp"
#include "sim/simgrid/exception_state.hpp"
#include "sim/simgrid/flows.hpp"
#include "sim/simgrid/local_queues.hpp"

namespace orrery::sim {

namespace {

std::uint32_t stack_bytes(const EngineOptions& options) {
  ORRERY_ASSERT(options.stack_bytes % 1024 == 0, "stack sizes are multiples of 1,024 bytes");
  if (options.stack_bytes != 0) return options.stack_bytes;
  // Of 256 KiB, behind what malloc puts before it, only 16 bytes of the first page would be used.
  return options.actors <= 50'000 ? 255 * 1024 : 32 * 1024;
}

// Makes SimGrid's engine with the frozen configuration. It is never destroyed: SimGrid cannot start
// over in a process.
void start_simgrid(std::uint32_t stack) {
  static bool started = false;
  ORRERY_ASSERT(!started, "one engine per process: run simulations in processes of their own");
  started = true;
  static std::vector<std::string> arguments = {
      "orrery",
      "--log=root.thres:critical",
      "--cfg=network/model:CM02",      // flows share links max-min fairly; no empirical factors
      "--cfg=network/crosstraffic:0",  // no acknowledgements on the way back
      "--cfg=network/TCP-gamma:1e30",  // no window limits a flow
      "--cfg=network/optim:Lazy",
      "--cfg=surf/precision:1e-12",  // one picosecond
      "--cfg=contexts/guard-size:0",
      "--cfg=contexts/stack-size:" + std::to_string(stack / 1024),
      std::string("--cfg=contexts/factory:") + (actors_are_threads ? "thread" : "raw"),
      "--cfg=debug/clean-atexit:no",
  };
  static std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  static int argc = static_cast<int>(argv.size());
  argv.push_back(nullptr);
  struct sigaction interrupt;
  sigaction(SIGINT, nullptr, &interrupt);
  new simgrid::s4u::Engine(&argc, argv.data());
  sigaction(SIGINT, &interrupt, nullptr);  // SimGrid would list its actors and exit
}

}  // namespace

// Everything happens in step(), which SimGrid calls as the last of its models when it wants to know
// how far its clock can move, and which goes through as many instants as it can before it answers.
class Engine::Impl {
 public:
  Impl(EngineClient& client, const EngineOptions& options)
      : client_(client),
        queue_(client),
        flows_(queue_, now_, counters_),
        actors_(counters_, actors_are_threads ? 0 : stack_bytes(options), options.measure_stacks) {
    start_simgrid(stack_bytes(options));
    flows_.make_platform();
    actors_.set_host(flows_.host());
    actors_.on_error = [this](std::exception_ptr error) { fail(std::move(error)); };
    simgrid::s4u::Engine::get_instance()->add_model(std::make_shared<Steps>(*this));
  }

  void run() {
    ORRERY_ASSERT(!ran_, "an engine runs once");
    ran_ = true;
    const ExceptionState own = ExceptionState::exchange({});
    simgrid::s4u::Engine::get_instance()->run();
    ExceptionState::exchange(own);
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

  void fail(std::exception_ptr error) {
    if (failed_) return;
    failed_ = true;
    error_ = std::move(error);
    queue_.clear();
    if (local_) local_->clear();
    actors_.begin_unwinding();
  }

  void schedule(Time when, const Key& key, std::uint64_t payload) {
    if (failed_) return;
    ORRERY_ASSERT(when >= now_, "nothing can be scheduled in the past, or beyond 213 days");
    ORRERY_ASSERT(key.fits(), "a key within its bounds");
    const QueueEntry entry{when.picoseconds, key.packed(), payload};
    if (local_)
      local_->push(entry);
    else
      queue_.push(entry);
  }

  void set_neighbourhoods(std::vector<std::uint16_t> by_rank) {
    ORRERY_ASSERT(!ran_ && queue_.empty(), "neighbourhoods are set before anything is scheduled");
    local_.emplace(client_, std::move(by_rank));
  }
  void await(std::uint32_t rank, Time when, std::uint64_t payload) {
    if (!failed_) local_->await(rank, when.picoseconds, payload);
  }

  void start_flow(std::span<const LinkId> path, Bytes size, const Key& key, std::uint64_t payload) {
    if (!failed_) flows_.request(path, size, key, payload);
  }

  // Before run(), as links are.
  LinkId add_link(BytesPerSecond bandwidth) {
    ORRERY_ASSERT(!ran_, "links are added before run()");
    return flows_.add_link(bandwidth);
  }

  void watch_links(std::function<void(Time, LinkId, BytesPerSecond)> changed) {
    ORRERY_ASSERT(!ran_, "links are watched from before run() on");
    flows_.watch(std::move(changed));
  }

  Actors& actors() { return actors_; }
  const Flows& flows() const { return flows_; }
  Time now() const { return now_; }
  bool failed() const { return failed_; }
  const EngineCounters& counters() const { return counters_; }

 private:
  // How SimGrid calls us.
  class Steps : public simgrid::kernel::resource::Model {
   public:
    explicit Steps(Impl& impl) : Model("Orrery"), impl_(impl) {}
    double next_occurring_event(double now) override { return impl_.step(now); }
    void update_actions_state(double, double) override {}

   private:
    Impl& impl_;
  };

  static constexpr double nothing = -1;  // told to SimGrid: no reason of ours to go on

  // Returns how far SimGrid's clock may move at most before it must ask again.
  double step(double clock) {
    ++counters_.rounds;
    actors_.left();
    if (over_) return nothing;
    try {
      flows_.refresh(clock);
      if (!failed_) return local_ ? go_on_locally() : go_on(clock);
    } catch (...) {
      fail(std::current_exception());
    }
    return unwind();
  }

  double go_on(double clock) {
    for (;;) {
      if (flows_.end_is_due()) return flows_.delay();  // SimGrid ends it; then it is in the queue
      deliver();
      if (failed_) return unwind();
      if (client_.run_hosts()) continue;
      if (actors_.any_runnable()) {
        actors_.release_runnable();
        return 0;
      }
      if (actors_.live() == 0 && actors_.any_spawned()) return end();
      if (flows_.requested()) {
        if (const double lag = flows_.lag(clock); lag > 0) return lag;
        flows_.start_requested(clock);
        continue;
      }
      const Time next_end = flows_.next_end();
      const Time next_entry = queue_.empty() ? time_never : Time(queue_.top().time);
      if (next_entry == time_never && next_end == time_never) {
        if (actors_.live() == 0 && !client_.hosts_left()) return end();
        ask_stuck();
      } else if (next_end <= next_entry) {
        now_ = next_end;
        return flows_.delay();
      } else {
        now_ = next_entry;
      }
    }
  }

  double go_on_locally() {
    for (;;) {
      QueueEntry entry;
      while (local_->take(entry)) deliver(entry);
      if (failed_) return unwind();
      if (client_.run_hosts()) continue;
      if (local_->advance(now_.picoseconds)) continue;
      if (!client_.hosts_left()) return end();
      ask_stuck();
    }
  }

  void deliver(const QueueEntry& entry) {
    ++counters_.completions;
    client_.due(now_, Key::unpacked(entry.key), entry.payload);
  }

  // Phase 1.
  void deliver() {
    while (!queue_.empty() && queue_.top().time <= now_.picoseconds) deliver(queue_.take());
  }

  void ask_stuck() {
    client_.stuck();
    if (failed_ || actors_.any_runnable() || !queue_.empty() || flows_.requested()) return;
    throw Error(Category::internal, "actors are blocked for ever and the client has no diagnosis");
  }

  double unwind() {
    flows_.drop_all();
    return actors_.release_blocked() ? 0 : end();
  }

  double end() {
    over_ = true;
    queue_.clear();
    if (local_) local_->clear();
    flows_.drop_all();
    return nothing;
  }

  EngineClient& client_;
  EngineCounters counters_;
  Time now_;
  EventQueue queue_;
  std::optional<LocalQueues> local_;  // in its place, with neighbourhoods
  Flows flows_;
  Actors actors_;
  std::exception_ptr error_;
  bool failed_ = false;
  bool over_ = false;
  bool ran_ = false;
};

Engine::Engine(EngineClient& client, const EngineOptions& options)
    : impl_(std::make_unique<Impl>(client, options)) {}
Engine::~Engine() = default;

void Engine::set_neighbourhoods(std::vector<std::uint16_t> by_rank) {
  impl_->set_neighbourhoods(std::move(by_rank));
}
void Engine::await(std::uint32_t rank, Time when, std::uint64_t payload) {
  impl_->await(rank, when, payload);
}
LinkId Engine::add_link(BytesPerSecond bandwidth) { return impl_->add_link(bandwidth); }
void Engine::watch_links(std::function<void(Time, LinkId, BytesPerSecond)> changed) {
  impl_->watch_links(std::move(changed));
}
ActorId Engine::spawn(std::uint32_t rank, std::uint32_t flow, std::function<void()> body) {
  return impl_->actors().spawn(rank, flow, std::move(body));
}
void Engine::block() { impl_->actors().block(); }
void Engine::make_runnable(ActorId actor) { impl_->actors().make_runnable(actor); }
ActorId Engine::current() const { return impl_->actors().current(); }
void Engine::schedule(Time when, const Key& key, std::uint64_t payload) {
  impl_->schedule(when, key, payload);
}
void Engine::start_flow(std::span<const LinkId> path, Bytes size, const Key& key,
                        std::uint64_t payload) {
  impl_->start_flow(path, size, key, payload);
}
Time Engine::now() const { return impl_->now(); }
std::uint32_t Engine::live_flows() const { return impl_->flows().live(); }
std::uint32_t Engine::live_actors() const { return impl_->actors().live(); }
void Engine::run() { impl_->run(); }
void Engine::fail(std::exception_ptr error) { impl_->fail(std::move(error)); }
bool Engine::failed() const { return impl_->failed(); }
const EngineCounters& Engine::counters() const { return impl_->counters(); }

std::string simgrid_version() {
  int major = 0, minor = 0, patch = 0;
  sg_version_get(&major, &minor, &patch);
  return std::to_string(major) + "." + std::to_string(minor);
}

}  // namespace orrery::sim
