// Which islands are there, where some join, leave or die on the way.
//
// Whoever is there knows who joins and who leaves at which meeting; that one has died is learnt at
// the next meeting, where its part is missed for `deadline`. The others then meet anew without it.
// One that joins does so behind a meeting: the first of those that met gives it all that workers
// hold alike. With a quorum a program beside the islands tells who meets (quorum.hpp), and whoever
// comes late is given the same behind the next meeting.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "algorithms/members.hpp"
#include "algorithms/progress.hpp"
#include "backend/checkpoint.hpp"
#include "backend/rank.hpp"

namespace orrery {

// Who comes and goes, and whom a meeting waits for.
struct MembershipOptions {
  std::vector<Member> members;         // those that come or go on the way
  std::optional<Seconds> deadline;     // by which one that has died is noticed
  std::optional<std::int64_t> quorum;  // workers that suffice for a meeting; absent: all of them
  Seconds grace{0};                    // how long a quorum waits for the others
};

class IslandMembers {
 public:
  using Visit = std::function<void(Archive&)>;

  // In set-up, before the first communication on `channel`, which is over all islands. They meet
  // every `meet_every` steps, and have met `meeting_takes` steps later.
  IslandMembers(const MembershipOptions& options, std::int64_t meet_every,
                std::int64_t meeting_takes, Channel& channel, Stream& communication,
                Stream& compute);

  // Before each step. One that joins waits for its meeting, one that was late for the next; then it
  // takes what workers hold alike, which `visit` shows, behind the compute stream, and is as far
  // as they are. Error{unavailable} where a training with a quorum goes on from a checkpoint.
  enum class Entry : std::uint8_t { goes_on, takes, stays_away };  // it takes no more steps
  Entry enter(Progress& progress, const Visit& visit);
  // Behind each step: whether this island is dead.
  bool dies();
  // Whether a meeting is over behind step t.
  bool meeting_ends(std::int64_t t) const { return t >= takes_ && (t - takes_) % every_ == 0; }
  // Before the meeting at step t: whether this island takes part in it.
  enum class Part : std::uint8_t { meets, is_late, ends };  // is late, and none comes after it
  Part come(std::int64_t t);
  // Whether one may be lost in a meeting: with a quorum only those are in it that have come.
  bool some_die() const { return some_die_; }
  std::vector<int> that_meet() const;  // islands
  // Issues a communication of those that meet, until none of them is lost in it; waits for it.
  Event among_the_living(const std::function<Event()>& communicate);
  // Behind the meeting at step t of a training of `last`: whether this island leaves; else those
  // that do are gone, and who joins is given what `visit` shows.
  bool change(std::int64_t t, std::int64_t last, const Visit& visit);
  // Behind the last step.
  void finish();
  // Who is there, and how far this island has come. State of one that is not there yet, or any
  // more, is as it was when it was saved.
  void visit(Archive& archive);

  bool begun() const { return begun_; }
  std::int64_t taken() const { return taken_; }  // steps of its own
  Bytes sent() const { return sent_; }           // to those that joined

 private:
  struct Island {
    std::int64_t joins = 0, leaves = 0;  // at these steps of the training; 0: never
  };
  std::vector<int> that_join(std::int64_t t) const;  // ranks
  bool begin(const Progress& progress, const Visit& visit);
  std::vector<int> ranks_of(std::span<const std::int64_t> islands) const;
  void take(Progress& progress, const Visit& visit);
  void give(std::int64_t t, std::vector<int> ranks, int giver, const std::vector<int>& takers,
            const Visit& visit);
  void share(int root, const Visit& visit);

  Rank& rank_;
  Channel& channel_;
  Stream &communication_, &compute_;
  std::int64_t every_, takes_;
  std::vector<int> everyone_;  // ranks, by island
  std::vector<Island> islands_;
  int me_;
  std::int64_t leaves_after_ = 0, dies_after_ = 0;  // own steps; 0: never
  std::int64_t taken_ = 0;                          // own steps
  std::int64_t changed_ = 0;  // step of the last meeting behind which others came or went
  bool some_die_ = false, begun_ = false, dead_ = false, left_ = false;
  std::optional<int> service_;  // with a quorum: that decides who meets
  bool late_ = false;
  std::vector<int> takers_;  // ranks, of the meeting at hand
  Bytes sent_;
};

// Error{config} where one of the members is no island, comes twice or never trains, where none of
// the islands is there from the start to the end, or where a quorum is none.
void check_membership(const MembershipOptions& options, int islands);

}  // namespace orrery
