// Actors: rank programs on stacks of their own, run by SimGrid, in an order decided here. Internal
// to sim/simgrid.
#pragma once

#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <simgrid/s4u.hpp>
#include <vector>

#include "sim/simgrid/engine.hpp"

namespace orrery::sim {

class Actors {
 public:
  // `stack_bytes` is 0 where the size of stacks is not ours to know (actors as threads, under
  // sanitizers).
  Actors(EngineCounters& counters, std::uint32_t stack_bytes, bool measure_stacks)
      : counters_(counters), stack_bytes_(stack_bytes), measure_stacks_(measure_stacks) {}

  // Actors run on this host; it stands for nothing.
  void set_host(simgrid::s4u::Host* host) { host_ = host; }
  // Called with what leaves a body, except when the stack is being unwound.
  std::function<void(std::exception_ptr)> on_error;

  ActorId spawn(std::uint32_t rank, std::uint32_t flow, std::function<void()> body);
  void block();
  void make_runnable(ActorId actor);
  ActorId current() const { return current_; }
  void left() { current_ = no_actor; }  // SimGrid has come back from the actors

  bool any_runnable() const { return !runnable_.empty(); }
  bool any_spawned() const { return !actors_.empty(); }
  std::uint32_t live() const { return live_; }

  // Outside any actor: hands what is runnable to SimGrid in (rank, flow) order; it runs when
  // SimGrid goes on.
  void release_runnable();
  // From now on block() throws, and bodies that have not begun never do.
  void begin_unwinding() { unwinding_ = true; }
  // Hands every blocked actor to SimGrid, to unwind; true if there was one.
  bool release_blocked();

 private:
  enum class State : std::uint8_t { runnable, running, blocked, ended };
  struct Actor {
    std::uint64_t place = 0;  // rank and flow
    std::function<void()> body;
    simgrid::s4u::ActorPtr handle;  // null before it first runs and after it ended
    std::uintptr_t stack_end = 0;   // lowest address, to within a kilobyte; 0 if unknown
    State state = State::runnable;
  };

  void release(std::vector<std::uint32_t>& batch);
  void top(std::uint32_t id);  // what an actor runs
  void run_body(std::uint32_t id);
  void check_stack(std::uint32_t id, std::uintptr_t stack_top);
  void give_back_unused(const Actor& actor) const;

  EngineCounters& counters_;
  const std::uint32_t stack_bytes_;
  const bool measure_stacks_;
  simgrid::s4u::Host* host_ = nullptr;
  std::deque<Actor> actors_;
  std::vector<std::uint32_t> runnable_;  // for the next phase 2, in no order
  std::vector<std::uint32_t> batch_;
  ActorId current_ = no_actor;
  std::uint32_t live_ = 0;
  bool unwinding_ = false;
};

}  // namespace orrery::sim
