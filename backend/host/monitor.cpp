#include "backend/host/monitor.hpp"

#include <algorithm>

namespace orrery::host {

using std::chrono::duration_cast;
using std::chrono::nanoseconds;

Time Monitor::at(Instant instant) const {
  const auto ns = duration_cast<nanoseconds>(instant - start_).count();
  return Time(ns > 0 ? static_cast<std::uint64_t>(ns) * 1000 : 0);
}

Instant Monitor::instant(Time time) const {
  return start_ + nanoseconds(static_cast<std::int64_t>((time.picoseconds + 999) / 1000));
}

void Monitor::add(Entity& entity, bool running) {
  entities_.push_back(&entity);
  entity.blocked_ = !running;
  if (running) ++running_;
}

void Monitor::remove(Entity& entity) {
  entities_.erase(std::find(entities_.begin(), entities_.end(), &entity));
  if (!entity.blocked_) --running_;
  if (running_ == 0) check_stuck();
}

bool Monitor::block(Lock& lock, Entity& entity, std::optional<Instant> deadline) {
  entity.blocked_ = true;
  --running_;
  return wait_until_ready(lock, entity, deadline);
}

bool Monitor::wait_until_ready(Lock& lock, Entity& entity, std::optional<Instant> deadline) {
  entity.timed_ = entity.blocked_ && deadline.has_value();
  if (running_ == 0) check_stuck();
  bool in_time = true;
  while (entity.blocked_ && !failed()) {
    if (!entity.timed_) {
      entity.wake_.wait(lock);
    } else if (std::chrono::steady_clock::now() < *deadline) {
      entity.wake_.wait_until(lock, *deadline);
    } else {
      entity.timed_ = false;
      if (entity.deadline_passed()) {
        in_time = !entity.blocked_;
        make_ready(entity);
      } else if (running_ == 0) {
        check_stuck();
      }
    }
  }
  entity.timed_ = false;
  if (failed()) {
    make_ready(entity);
    throw_failure();
  }
  return in_time;
}

void Monitor::make_ready(Entity& entity) {
  if (!entity.blocked_) return;
  entity.blocked_ = false;
  entity.timed_ = false;
  ++running_;
  entity.wake_.notify_one();
}

void Monitor::keep(std::exception_ptr exception) {
  const std::lock_guard lock(kept_mutex_);
  kept_.push_back(std::move(exception));
}

void Monitor::fail(std::exception_ptr failure) {
  if (failed()) return keep(std::move(failure));
  failure_ = std::move(failure);
  try {
    std::rethrow_exception(with_context(failure_, {}));
  } catch (const Error& error) {
    error_ = error;
  }
  failed_.store(true, std::memory_order_seq_cst);
  for (Entity* entity : entities_) entity->wake_.notify_all();
}

// error_ does not change once failed_ is set.
void Monitor::throw_failure() { throw Error(*error_); }

// No entity runs. Unless a deadline is to come, those that are not idle never will.
void Monitor::check_stuck() {
  if (failed()) return;
  bool stuck = false;
  for (const Entity* entity : entities_) {
    if (entity->timed_) return;
    stuck = stuck || !entity->idle();
  }
  if (!stuck) return;
  Error error(Category::deadlock, "nothing can run any more: everything waits for something else");
  for (const Entity* entity : entities_)
    if (const std::string in = entity->blocked_in(); !in.empty()) error.with(entity->who(), in);
  error.with("time", std::to_string(now().seconds().value) + " s");
  fail(std::make_exception_ptr(error));
}

std::exception_ptr with_context(std::exception_ptr failure,
                                const std::vector<std::pair<std::string, std::string>>& context) {
  std::optional<Error> error;
  try {
    std::rethrow_exception(failure);
  } catch (const Error& e) {
    error = e;
  } catch (const std::exception& e) {
    error = Error(Category::invalid_program, e.what());
  } catch (...) {
    error = Error(Category::invalid_program, "an exception that is not a std::exception");
  }
  for (const auto& [key, value] : context)
    if (error->context(key).empty()) error->with(key, value);
  return std::make_exception_ptr(*error);
}

}  // namespace orrery::host
