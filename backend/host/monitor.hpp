// The world's one lock, who runs and who is blocked, and the exact detection of deadlock.
//
// Flows, stream workers and services are entities. An entity that is made ready counts as running
// from that moment, so when none runs, none ever will, unless a deadline is still to come.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "backend/core/error.hpp"
#include "backend/core/units.hpp"

namespace orrery::host {

using Lock = std::unique_lock<std::mutex>;
using Instant = std::chrono::steady_clock::time_point;

// Unwinds a worker or a service whose run is over. Not an Error: nobody reports it.
struct Unwind {};

class Entity {
 public:
  virtual ~Entity() = default;
  // "rank 0 stream compute", and what it is blocked in; with the lock held.
  virtual std::string who() const = 0;
  virtual std::string blocked_in() const = 0;
  // An idle entity has nothing to do, or need not end: alone it makes no deadlock. One that also
  // says nothing in blocked_in() is not reported in one.
  virtual bool idle() const { return false; }

 private:
  friend class Monitor;
  // The deadline of a wait has passed, with the lock held. Returns whether the entity itself runs
  // on; if not, it stays blocked, without a deadline.
  virtual bool deadline_passed() { return true; }

  std::condition_variable wake_;
  bool blocked_ = false;
  bool timed_ = false;  // blocked with a deadline that is still to come
};

class Monitor {
 public:
  std::mutex& mutex() { return mutex_; }
  Instant start() const { return start_; }
  void start_clock() { start_ = std::chrono::steady_clock::now(); }
  Time now() const { return at(std::chrono::steady_clock::now()); }
  Time at(Instant instant) const;
  Instant instant(Time time) const;

  // All below: with the lock held.
  void add(Entity& entity, bool running);
  void remove(Entity& entity);  // it runs, and ends
  // Blocks until made ready (true) or, when deadline_passed() says so, past the deadline (false).
  // Throws the failure of the run when it has one. Wakes only for these reasons.
  bool block(Lock& lock, Entity& entity, std::optional<Instant> deadline = {});
  // As block, for an entity that was added as not running.
  bool wait_until_ready(Lock& lock, Entity& entity, std::optional<Instant> deadline = {});
  void make_ready(Entity& entity);
  // The run has failed: keeps the first failure and throws everyone out of their waits.
  void fail(std::exception_ptr failure);

  // Without the lock.
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  void throw_if_failed() {
    if (failed()) throw_failure();
  }
  std::exception_ptr failure() const { return failure_; }  // when all threads have ended
  // Keeps an exception until the run is over, so that it dies on the thread that made the world.
  void keep(std::exception_ptr exception);

 private:
  [[noreturn]] void throw_failure();
  void check_stuck();

  std::mutex mutex_;
  Instant start_ = std::chrono::steady_clock::now();
  std::vector<Entity*> entities_;
  std::size_t running_ = 0;
  std::atomic<bool> failed_{false};
  std::exception_ptr failure_;
  std::optional<Error>
      error_;  // the failure, to be copied: an exception object belongs to a thread
  std::mutex kept_mutex_;
  std::vector<std::exception_ptr> kept_;
};

// A copy of `failure` as an Error of its own, with context added where it has none of that name.
// Anything that is not an Error becomes Error{invalid_program} with its what().
std::exception_ptr with_context(std::exception_ptr failure,
                                const std::vector<std::pair<std::string, std::string>>& context);

}  // namespace orrery::host
