// How a rank's compute stream spends its time, to the picosecond.
//
// The account covers [0, until]; what happens next extends it. The parts always sum to `until`.
#pragma once

#include <cstdint>

#include "backend/world.hpp"

namespace orrery::sim {

// What a wait for a stream counts as in a rank's TimeParts.
enum class WaitClass : std::uint8_t { idle, collective, edge };

// Time for which a host flow was blocked, by what it waited for.
struct BlockedTime {
  Time collective, edge, idle;
  BlockedTime operator-(const BlockedTime& o) const {
    return {collective - o.collective, edge - o.edge, idle - o.idle};
  }
  void add(WaitClass wait, Time duration) {
    (wait == WaitClass::collective ? collective
     : wait == WaitClass::edge     ? edge
                                   : idle) += duration;
  }
};

class TimeAccount {
 public:
  Time until() const { return until_; }

  // The stream computed, or its head waited for another stream or for other ranks, until `end`.
  void computed(Time end) { extend(parts_.compute, end); }
  void waited(WaitClass wait, Time end) { extend(part(parts_, wait), end); }
  // The stream computed for `duration` and waited for the launches of a sequence the rest of the
  // time until `end`.
  void computed(Time duration, Time end) {
    parts_.compute += duration;
    parts_.overhead += end - until_ - duration;
    until_ = end;
  }
  // Nothing to do until `end`, when the host's next operation came: overhead, but for the time in
  // which that host flow was blocked (host_blocked()).
  void starved(Time end) {
    if (end > until_) fill_gap(end);
  }
  // Set when an operation is issued to the empty stream: how long its flow was blocked meanwhile.
  void host_blocked(const BlockedTime& blocked) { blocked_ = blocked; }

  // The parts of [0, at], given what the stream does now (as computed, waited or starved would
  // say).
  enum class Now : std::uint8_t { computing, waiting, starving };
  TimeParts at(Time at, Now now, WaitClass wait, const BlockedTime& blocked) const;

 private:
  void fill_gap(Time end);
  static Time& part(TimeParts& parts, WaitClass wait) {
    return wait == WaitClass::collective ? parts.exposed_communication
           : wait == WaitClass::edge     ? parts.bubble
                                         : parts.idle;
  }
  void extend(Time& to, Time end) {
    if (end <= until_) return;
    to += end - until_;
    until_ = end;
  }

  Time until_;
  TimeParts parts_;
  BlockedTime blocked_;
};

}  // namespace orrery::sim
