// Which islands are there, where some join, leave or die on the way.
//
// Whoever is there knows who joins and who leaves at which meeting; that one has died is learnt at
// the next meeting, where its part is missed for `deadline`. The others then meet anew without it.
// One that joins does so behind a meeting: the first of those that met gives it all that workers
// hold alike.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "algorithms/members.hpp"
#include "algorithms/progress.hpp"
#include "backend/checkpoint.hpp"
#include "backend/rank.hpp"

namespace orrery {

class IslandMembers {
 public:
  using Visit = std::function<void(Archive&)>;

  // In set-up, before the first communication on `channel`, which is over all islands. They meet
  // every `meet_every` steps.
  IslandMembers(std::vector<Member> members, std::optional<Seconds> deadline,
                std::int64_t meet_every, Channel& channel, Stream& communication, Stream& compute);

  // Before its first step. One that joins waits for its meeting and takes what workers hold alike,
  // which `visit` shows, behind the compute stream; false where it never comes to that.
  // Error{unavailable} where the training goes on from a checkpoint.
  bool arrive(Progress& progress, const Visit& visit);
  // Whether this island is dead when it has taken `t` steps of the training.
  bool is_dead(std::int64_t t) const;
  // Issues a communication of those that are there, until none of them is lost in it; waits for it.
  Event among_the_living(const std::function<Event()>& communicate);
  // Behind the meeting at step t of a training of `last`: whether this island leaves; else those
  // that do are gone, and who joins is given what `visit` shows.
  bool change(std::int64_t t, std::int64_t last, const Visit& visit);

  std::int64_t first_step() const { return begins_; }  // that it has taken part in
  Bytes sent() const { return sent_; }                 // to those that joined

 private:
  struct Island {
    std::int64_t joins = 0, leaves = 0, dies = 0;  // at these steps of the training; 0: never
  };
  std::vector<int> that_join(std::int64_t t) const;  // ranks
  void share(int root, const Visit& visit);

  Rank& rank_;
  Channel& channel_;
  Stream &communication_, &compute_;
  std::vector<int> everyone_;  // ranks, by island
  std::vector<Island> islands_;
  int me_;
  std::int64_t begins_ = 0;
  Bytes sent_;
};

// Error{config} where one of `members` is no island, comes twice or never trains, or where none of
// the islands is there from the start to the end.
void check_island_members(const std::vector<Member>& members, int islands);

}  // namespace orrery
