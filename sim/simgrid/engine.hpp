// The engine of the simulated world: a clock, actors, a queue of device completions and a contended
// network.
//
// SimGrid runs the actors and shares the links; this interface names none of its types. Time is an
// integer count of picoseconds. An instant has two phases, repeated until nothing more happens:
//   phase 1  every queue entry and every finished flow of the instant is delivered to
//            EngineClient::due in (time, rank, stream, ordinal) order; due may schedule more at
//            the same instant;
//   phase 2  every actor that is runnable when the phase begins runs, in (rank, flow) order, until
//            it blocks or ends. Hosts without an actor are the client's (EngineClient::run_hosts).
// No actor runs before every completion of the instant so far has been delivered. Requested flows
// start when the instant is over, all together. Equal calls give equal orders and equal times, bit
// for bit.
//
// One engine per process: simulations are separated by fork. Nothing here is thread-safe;
// everything runs in the thread that calls run() (the actors on their own stacks).
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/core/units.hpp"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define ORRERY_ACTORS_ARE_THREADS 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ORRERY_ACTORS_ARE_THREADS 1
#endif

namespace orrery::sim {

// Sanitizers cannot follow SimGrid's change of stacks, so under them every actor is a thread (one
// runs at a time): slow beyond some hundred actors, and stacks are neither sized nor measured.
#ifdef ORRERY_ACTORS_ARE_THREADS
inline constexpr bool actors_are_threads = true;
#else
inline constexpr bool actors_are_threads = false;
#endif

// The order of completions within one instant. Entries of one instant with equal keys come in an
// order that is repeatable but not specified: give each completion of a stream its own ordinal.
struct Key {
  std::uint32_t rank = 0;     // below 2^24
  std::uint16_t stream = 0;   // up to last_stream
  std::uint64_t ordinal = 0;  // below 2^32; with neighbourhoods, from 1 on
  std::uint8_t turn = 0;      // up to 3: those of a later turn come behind all others

  static constexpr std::uint16_t last_stream = 63;
  std::uint64_t packed() const {
    return std::uint64_t{turn} << 62 | std::uint64_t{rank} << 38 | std::uint64_t{stream} << 32 |
           ordinal;
  }
  static Key unpacked(std::uint64_t packed) {
    return {static_cast<std::uint32_t>(packed >> 38 & 0xff'ffff),
            static_cast<std::uint16_t>(packed >> 32 & last_stream), packed & 0xffff'ffff,
            static_cast<std::uint8_t>(packed >> 62)};
  }
  bool fits() const {
    return (rank >> 24 | ordinal >> 32) == 0 && stream <= last_stream && turn <= 3;
  }
  auto operator<=>(const Key& o) const { return packed() <=> o.packed(); }
  bool operator==(const Key& o) const { return packed() == o.packed(); }
};

// A link of the network: all flows that cross it share its bandwidth (max-min fairly).
struct LinkId {
  std::uint32_t value = 0;
  auto operator<=>(const LinkId&) const = default;
};

// An actor: one host flow of a rank program.
struct ActorId {
  std::uint32_t value = 0;
  auto operator<=>(const ActorId&) const = default;
};
inline constexpr ActorId no_actor{~std::uint32_t{0}};

// What the engine calls, always outside any actor. An exception that leaves one of these fails the
// run (Engine::fail).
class EngineClient {
 public:
  virtual ~EngineClient() = default;

  // Phase 1: an entry of the queue is due or a flow has finished. May schedule, request flows,
  // spawn and make actors runnable.
  virtual void due(Time now, const Key& key, std::uint64_t payload) = 0;

  // About `between_levels` (level + 1) others are due before this, for each level from `farthest`
  // down to 0 unless it was scheduled when it was nearer: time to fetch its object into the cache,
  // then what that leads to.
  static constexpr int farthest = 4, between_levels = 2;
  virtual void approaches(int /*level*/, std::uint64_t /*payload*/) {}

  // With neighbourhoods: how long after this instant what is awaited comes at the earliest (more
  // than nothing); or Time{} when it is no longer awaited, as its entries have been scheduled.
  virtual Time awaited(std::uint64_t /*payload*/) { return {}; }

  // Phase 2, before any actor: the hosts that live without one run, as actors would; whether one
  // did. Phase 1 follows again.
  virtual bool run_hosts() { return false; }
  // Whether one of them has not come to its end.
  virtual bool hosts_left() const { return false; }

  // Nothing is left to happen, yet actors are blocked or hosts are left. The client throws a
  // diagnosis, or marks what failed and makes actors runnable so that they throw it. To do neither
  // is an internal error.
  virtual void stuck() = 0;
};

struct EngineOptions {
  // How many actors to expect. It decides the stack size where stack_bytes does not.
  std::uint32_t actors = 0;
  // Per actor, a multiple of 1,024; 0: 255 KiB up to 50,000 actors, 32 KiB above.
  std::uint32_t stack_bytes = 0;
  // Fills EngineCounters::deepest_stack, at some cost when each actor ends.
  bool measure_stacks = false;
};

struct EngineCounters {
  std::uint64_t completions = 0;  // calls of EngineClient::due
  std::uint64_t wake_ups = 0;     // times an actor was let run
  std::uint64_t flows = 0;        // flows finished (those of no bytes are not counted)
  std::uint64_t rounds = 0;       // times SimGrid was entered; what a simulation should keep low
  std::uint32_t most_live_flows = 0;
  std::uint32_t deepest_stack = 0;  // bytes used by the actor that used most; 0 if not measured
};

// Version of the SimGrid library that is linked, such as "3.32".
std::string simgrid_version();

class Engine {
 public:
  // Throws Error{internal} if this process has made an engine before, even one destroyed since.
  explicit Engine(EngineClient& client, const EngineOptions& options = {});
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Ranks of one neighbourhood (by rank, from 0 on) are dealt with together as far as they can go
  // on before another, which the client tells by await(); so now() is the time of one
  // neighbourhood, and goes back when the next has its turn. Every entry has a key of its rank's.
  // Not with actors or flows, and before anything is scheduled.
  void set_neighbourhoods(std::vector<std::uint16_t> by_rank);
  // Entries that another neighbourhood schedules for `rank` because of this come at `when` at the
  // earliest. When that comes, EngineClient::awaited is asked.
  void await(std::uint32_t rank, Time when, std::uint64_t payload);

  // Network. A link has no latency: latencies are paid by an entry of the queue before the flow
  // starts. Before run() only.
  LinkId add_link(BytesPerSecond bandwidth);

  // Actors. Each runs `body` on its own stack, first in phase 2 of the present instant (or of time
  // 0, before run()).
  ActorId spawn(std::uint32_t rank, std::uint32_t flow, std::function<void()> body);
  // Inside an actor: lets others run until make_runnable. Waiting is a loop:
  //   while (!ready()) engine.block();
  // Throws an internal exception (not a std::exception) when the run has failed, so that the stack
  // unwinds; it must be let through. Destructors must not block.
  void block();
  // The actor runs in the next phase 2. Without effect on an actor that is not blocked.
  void make_runnable(ActorId actor);
  // The actor that runs now; no_actor in the client's callbacks and outside run().
  ActorId current() const;

  // Delivers (key, payload) to the client at `when`, which must not be before now().
  void schedule(Time when, const Key& key, std::uint64_t payload);
  // Moves `size` bytes over `path` from now on, sharing each link; the end is delivered as (key,
  // payload). A flow of no bytes ends at this instant. Throws Error{internal} if the path is empty,
  // or names a link twice or an unknown one. Cost: 2 us each with 64 live flows, 11 us with 1,000,
  // 40 us with 4,000 (SimGrid 3.32 searches a list of all).
  void start_flow(std::span<const LinkId> path, Bytes size, const Key& key, std::uint64_t payload);

  // Calls `changed` whenever the bytes per second that flows put on a link have changed, with the
  // instant from which they hold. Before run() only; it costs a look at every link in use whenever
  // a flow starts or ends.
  void watch_links(std::function<void(Time since, LinkId link, BytesPerSecond rate)> changed);

  Time now() const;
  std::uint32_t live_flows() const;   // requested and not yet finished
  std::uint32_t live_actors() const;  // spawned and not yet ended

  // Simulates until the last actor has ended; entries and flows still under way then are dropped.
  // If no actor is ever spawned, until nothing is left to happen and no hosts are left. Rethrows
  // what failed the run. Can be called once.
  void run();

  // Ends the run: keeps `error` unless the run has failed already, drops all completions and flows,
  // and makes block() throw in every actor. What leaves an actor body or a client's callback comes
  // here too; within one phase 2 that is the error of the lowest (rank, flow).
  void fail(std::exception_ptr error);
  bool failed() const;

  const EngineCounters& counters() const;

  class Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace orrery::sim
