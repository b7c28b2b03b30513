#include "sim/time_account.hpp"

#include <algorithm>

namespace orrery::sim {

// The flow was blocked within the gap, so the parts fit; the limits guard the sum all the same.
void TimeAccount::fill_gap(Time end) {
  Time left = end - until_;
  const auto take = [&left](Time& to, Time amount) {
    amount = std::min(amount, left);
    to += amount;
    left = left - amount;
  };
  take(parts_.exposed_communication, blocked_.collective);
  take(parts_.bubble, blocked_.edge);
  take(parts_.idle, blocked_.idle);
  parts_.overhead += left;
  until_ = end;
  blocked_ = {};
}

TimeParts TimeAccount::at(Time at, Now now, WaitClass wait, const BlockedTime& blocked) const {
  TimeAccount then = *this;
  if (at < until_) {
    // The stream's next operation was issued in the host's future; the end of that gap is overhead,
    // because the host was already past it when it issued.
    then.parts_.overhead = parts_.overhead - std::min(parts_.overhead, until_ - at);
    then.until_ = at;
  } else if (now == Now::computing) {
    then.computed(at);
  } else if (now == Now::waiting) {
    then.waited(wait, at);
  } else {
    then.host_blocked(blocked);
    then.starved(at);
  }
  return then.parts_;
}

}  // namespace orrery::sim
