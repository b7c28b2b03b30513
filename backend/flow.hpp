// Host flows of a rank: what they wait for, signals between them, and control messages.
//
// A rank starts with one flow and may fork others. Flows of one rank share a baton: one runs at a
// time, and they switch only at waits. Waiting is a pure predicate over the rank's state
// (`satisfied`), then the take; worlds re-evaluate the predicate whenever the state changes.
#pragma once

#include <array>
#include <cstdint>
#include <exception>
#include <span>
#include <string>
#include <vector>

#include "backend/clock.hpp"
#include "backend/core/error.hpp"
#include "backend/core/units.hpp"
#include "backend/event.hpp"

namespace orrery {

using Tag = std::int32_t;
inline constexpr int any_source = -1;
inline constexpr Seconds forever{1e300};

struct ControlMessage {
  int from = 0;  // rank, or service address
  Tag tag = 0;
  std::vector<std::int64_t> values;
  Site site;  // of the sending
};

// A counting signal between flows of one rank: `raise` adds one, a wait takes one.
class Signal {
 public:
  explicit Signal(std::string name) : name_(std::move(name)) {}
  const std::string& name() const { return name_; }
  std::uint64_t raised() const { return raised_; }
  // For worlds, under their lock.
  void add() { ++raised_; }
  void take() { --raised_; }

 private:
  std::string name_;
  std::uint64_t raised_ = 0;
};

// A forked flow. Join it before the rank ends.
struct Task {
  std::uint32_t flow = 0;
};

struct Wait {
  enum class Kind : std::uint8_t { events, signal, message, join, time };
  Kind kind = Kind::time;
  std::span<const Event> events;  // satisfied when any of them is done
  const Signal* signal = nullptr;
  Tag tag = 0;
  int from = any_source;
  std::uint32_t flow_joined = 0;
  Time deadline = time_never;  // engine or wall time at which the wait ends unsatisfied
  std::uint32_t flow = 0;      // who waits
  Site site;
  std::string describe() const;  // "event 12 of stream compute…" without names: worlds add those
};

// What a rank's waits look at. The world updates `passed` and `mailbox`; the rank the rest.
// Guarded by the world.
struct HostState {
  std::vector<std::uint64_t> passed;  // by stream: the highest ordinal that it has passed
  std::vector<ControlMessage> mailbox;
  std::vector<bool> flow_ended;  // by flow

  bool done(Event event) const { return passed[event.stream] >= event.ordinal; }
  bool satisfied(const Wait& wait) const;
  // Index in the mailbox of the first message with this tag and source, or -1.
  int find(Tag tag, int from) const;
};

}  // namespace orrery
