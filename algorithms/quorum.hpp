// Meetings that do not wait for everybody: a program beside the islands that decides who meets.
//
// An island says that it has come when its inner steps are done. A meeting begins when all that are
// there have come, or a window of grace after a quorum of them has; as OpenDiLoCo's matchmaking
// (arXiv 2407.07852) and torchft's lighthouse (pytorch/torchft, min_replicas and join_timeout_ms)
// go on without the slow. Whoever comes later is late: its inner steps since the last meeting count
// for nothing, and behind the next it is given what those have that met, as one that joins.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "algorithms/members.hpp"
#include "backend/flow.hpp"
#include "backend/world.hpp"

namespace orrery {

struct QuorumOptions {
  int islands = 1;
  std::int64_t quorum = 1;          // islands that suffice for a meeting; at least 1
  Seconds grace{0};                 // how long others are waited for from then on
  std::optional<Seconds> deadline;  // after which one that has died is known to have
  std::int64_t every = 1;           // steps between two meetings
  std::int64_t steps = 1;           // of the whole training
  std::vector<Member> members;      // those that join on the way
};

namespace quorum {

inline constexpr const char* service = "quorum";
// To the service, all under one tag, so that it sees them in order, by every rank of an island.
inline constexpr Tag request = 12;
enum Request : std::int64_t {
  come,  // {come, island, ranks of an island, step}: answered by `word`
  end,   // {end, island, whether it has died}: I shall not come any more
};
// {meet or late, step of the meeting, how many meet, these islands, those that take behind it}, or
// {over}: there is no meeting any more that this island could be part of.
inline constexpr Tag word = 13;
enum Word : std::int64_t { meet, late, over };

}  // namespace quorum

World::ServiceProgram quorum_program(const QuorumOptions& options);

// The first meeting that is no earlier than `step`.
inline std::int64_t meeting_from(std::int64_t step, std::int64_t every) {
  return (step + every - 1) / every * every;
}

}  // namespace orrery
