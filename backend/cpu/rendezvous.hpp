// Meetings: where the streams that take part in a communication find each other.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "backend/channel.hpp"
#include "backend/cpu/operation.hpp"
#include "backend/cpu/world.hpp"
#include "backend/host/monitor.hpp"

namespace orrery::cpu {

using namespace host;

// The world's side of a Rendezvous. Guarded by the monitor, but for `results`, which the last to
// arrive fills before `done` and nobody changes after.
struct Meeting {
  Rendezvous* rendezvous = nullptr;
  bool virtual_values = false;  // some member's buffer has no values
  std::exception_ptr failure;   // of a member's stream or of the arithmetic
  bool done = false;
  std::optional<Instant> given_up_at;  // it waits only for ranks that have ended
  std::vector<int> lost;               // they, when it has been given up
  std::vector<Entity*> waiting;
  std::vector<std::mutex*> racy;  // by part: the rank's racy lock where the input is racy, or null
  std::vector<std::vector<std::byte>> results;

  // As part `mine` issued it, and what it still lacks: members that have not issued it, or whose
  // stream has not come to it.
  std::string describe(std::uint32_t mine) const;
};

// How a communication ended for a member.
struct Attended {
  std::exception_ptr failure;
  std::vector<int> lost;  // ranks; not empty: it did not take place
};

class Meetings {
 public:
  Meetings(Monitor& monitor, std::optional<Throttle> throttle)
      : monitor_(monitor), throttle_(throttle) {}

  // `communication` is issued: opens its meeting or joins it. Lock held. Throws what
  // Communicator::issue throws. `racy`: the rank's racy lock if its input is racy.
  Meeting& issue(const Communication& communication,
                 const std::vector<std::pair<const Communicator*, std::uint64_t>>& others, View in,
                 View out, std::mutex* racy, std::uint32_t& part);

  // A rank's program has ended, its streams too. Lock held.
  void rank_ended(int rank);

  // The stream `worker` has come to `meeting` as `part`; returns when the communication is over.
  // Its failure, or that of any other member, which then is `failure` if that is set; null if all
  // is well, and then `out` holds this member's result. Without the lock.
  Attended attend(Meeting& meeting, std::uint32_t part, Entity& worker,
                  const std::exception_ptr& failure, std::mutex* racy_out);

 private:
  void carry_out(Meeting& meeting, Entity& worker);
  bool has_ended(int rank) const;
  void look_for_lost(Meeting& meeting);
  void wait_for_end(Lock& lock, Meeting& meeting, Entity& worker);
  void leave(Meeting& meeting);

  Monitor& monitor_;
  std::optional<Throttle> throttle_;
  std::deque<std::unique_ptr<Meeting>> meetings_;
  std::vector<Meeting*> free_;
  std::vector<bool> ended_;  // by rank
};

}  // namespace orrery::cpu
