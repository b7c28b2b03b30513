// What a service learned from time: in which order messages came, and what its clock said.
#pragma once

#include "backend/decisions.hpp"
#include "backend/flow.hpp"

namespace orrery {

struct WorldOptions;

class ServiceLog {
 public:
  // Error{replay} where the log to follow is of a run with fewer ranks and services.
  ServiceLog(const WorldOptions& options, int address);

  // A receive that begins: whom to wait for, how long, and whether it ends at once because the log
  // says that nothing came in time. After the last decision of a log nobody is waited for: the
  // service goes on to its end.
  struct Receive {
    int from = any_source;
    bool timed = false, missed = false, logged = false;
  };
  Receive begin(int from, Seconds timeout);
  void received(const Receive& receive, const ControlMessage& message);
  void timed_out(const Receive& receive);

  // The time to tell the service when it is `now`.
  Time clock(Time now);
  DecisionLog take() { return std::move(log_); }

 private:
  DecisionLog log_;
};

}  // namespace orrery
