// Streams at work: what starts when, what ends when, and who is told.
//
// An operation starts when the one before it has ended and the host has issued it; a fence ends
// when the stream it names has passed the event. Everything happens in the engine's phase 1, but
// for the start of what is issued to an empty stream.
#pragma once

#include <exception>
#include <vector>

#include "sim/core.hpp"
#include "sim/stream_state.hpp"

namespace orrery::sim {

struct Transfer;

// Entry::extra of an operation that has values.
inline constexpr std::uint32_t with_values = 1;

class Streams {
 public:
  explicit Streams(Core& core) : core_(core) {}

  // An entry has come to an empty stream.
  void start(StreamState& stream);

  void operation_due(StreamState& stream);
  void reads_due(StreamState& stream);
  void wakes(StreamState& stream);

  // The stream's head, a communication, is over; it counts as `wait`. run_ready() must follow.
  void communication_ended(StreamState& stream, WaitClass wait);
  // Lets every stream go on that an end has freed. Within another call it does nothing: that one
  // gets to them.
  void run_ready();

  // Operation `ordinal` of the stream and all later ones fail.
  static void poison(StreamState& stream, std::uint64_t ordinal, std::exception_ptr failure);

 private:
  void advance(StreamState& stream);
  void begin_communication(StreamState& stream, Transfer& transfer, Time start);
  bool begin_fence(StreamState& stream, const Entry& entry, Time start);
  bool begin_operation(StreamState& stream, const Entry& entry, Time start);
  void end_operation(StreamState& stream);
  void end_fence(StreamState& stream);
  void pass(StreamState& stream);
  void trace_operation(const StreamState& stream, const Entry& entry) const;
  double factor_of(const StreamState& stream, const Entry& entry) const;
  Time end_of(const StreamState& stream, const Entry& entry) const;

  Core& core_;
  std::vector<StreamState*> ready_;
  bool running_ready_ = false;
};

}  // namespace orrery::sim
