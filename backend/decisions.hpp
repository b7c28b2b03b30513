// The decision log: everything a program learned from time.
//
// Polls, wait_any, timed waits, any-source receives, looks at the clock and hand-overs between
// flows are the only ways by which the clock of a world enters a program. A recorded log replayed
// in another world makes the program take the same path, so that values agree bit for bit (ACCO's
// micro-batch counts on cpu as in sim).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/core/error.hpp"

namespace orrery {

enum class DecisionKind : std::uint8_t { poll, wait_any, timed_wait, receive, handover, clock };
const char* name(DecisionKind);

struct Decision {
  DecisionKind kind = DecisionKind::poll;
  std::uint32_t flow = 0;
  std::int64_t result = 0;  // poll, timed_wait: 0 or 1; wait_any: index; receive: source, or -2 for
                            // none in time; handover: flow; clock: picoseconds
  bool operator==(const Decision&) const = default;
};

enum class DecisionMode : std::uint8_t { free, record, replay };

// The log of one rank, or of one service, whose flow is 0.
class DecisionLog {
 public:
  DecisionMode mode = DecisionMode::free;
  bool replaying() const { return mode == DecisionMode::replay; }
  void record(DecisionKind kind, std::uint32_t flow, std::int64_t result);
  // For a decision that is asked for now and known after a wait: takes its place in the log, before
  // the hand-overs that the wait makes, which is where a replay looks for it. No place, and nothing
  // done, unless recording.
  std::size_t reserve(DecisionKind kind, std::uint32_t flow);
  void fill(std::size_t place, std::int64_t result);
  // The next decision, which must be of this kind and flow: Error{replay} otherwise, or at the end
  // of the log.
  std::int64_t next(DecisionKind kind, std::uint32_t flow, Site site);
  // Whether the next decision is of this kind; does not consume it.
  const Decision* peek() const { return at_ < decisions.size() ? &decisions[at_] : nullptr; }
  bool finished() const { return at_ == decisions.size(); }

  std::vector<Decision> decisions;

 private:
  std::size_t at_ = 0;
};

// Text form: a header line with the number of logs, then one line per decision "rank kind flow
// result". The logs of services come after those of the ranks.
std::string to_text(const std::vector<DecisionLog>& logs);
std::vector<DecisionLog> decisions_from_text(
    const std::string& text, const std::string& file);  // Error{config} with the line

}  // namespace orrery
