// Vector clocks over the streams of one rank, in issue order.
//
// `Clock[i]` is the highest operation of stream i that is known to be ordered before some point.
// They decide hazards and refunds, never time: no simulated or measured clock enters, so every
// world decides alike.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/event.hpp"

namespace orrery {

inline constexpr std::size_t max_streams = 32;  // per rank

class Clock {
 public:
  std::uint32_t operator[](std::size_t stream) const { return seen_[stream]; }
  void raise(std::size_t stream, std::uint32_t ordinal) {
    if (seen_[stream] < ordinal) seen_[stream] = ordinal;
  }
  void merge(std::span<const std::uint32_t> seen) {
    for (std::size_t i = 0; i < seen.size(); ++i) raise(i, seen[i]);
  }
  std::span<const std::uint32_t> first(std::size_t streams) const {
    return std::span(seen_).first(streams);
  }

 private:
  std::array<std::uint32_t, max_streams> seen_{};
};

// The clock of one stream and as much of its past as an event can still ask for.
class StreamClock {
 public:
  const Clock& now() const { return now_; }
  // What an operation after `ordinal` of this stream knows, by stream, until the clock changes; of
  // a forgotten past, nothing.
  std::span<const std::uint32_t> at(std::uint32_t ordinal) const;
  // The stream's operation `ordinal` (a fence, or the first after a host wait) learned what `known`
  // says, and that `event` is over; the rank has `streams` of them.
  void learn(std::uint32_t ordinal, std::span<const std::uint32_t> known, std::size_t streams,
             Event event = {});
  // Every stream of the rank knows of `ordinal`: what came before it teaches nobody anything.
  void forget_before(std::uint32_t ordinal);
  // The past has become long since something was forgotten last.
  bool is_crowded() const { return past_.size() >= crowded_; }
  std::size_t past_bytes() const { return past_.capacity() * sizeof(past_[0]); }

 private:
  std::size_t row() const { return width_ + 1; }
  std::size_t first_row_after(std::uint32_t ordinal) const;
  void widen(std::size_t streams);

  static constexpr std::size_t enough = 48;
  Clock now_;
  std::size_t width_ = 0;            // streams that the past tells of
  std::vector<std::uint32_t> past_;  // rows, ascending: an ordinal, and the clock from there on
  std::size_t crowded_ = enough;
};

}  // namespace orrery
