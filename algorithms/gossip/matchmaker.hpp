// The matchmaker: a program beside the workers that pairs them for averaging, and deals out the
// gradients that are still to be computed.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "algorithms/gossip/graph.hpp"
#include "backend/world.hpp"

namespace orrery {

// How pairs come about.
enum class Pairing : std::uint8_t {
  available,  // a worker that is ready is paired with a neighbour that waits, a random one of them
  poisson,    // every edge has a Poisson clock; workers average in the order of its ticks, of which
              // those are left out that find one of them some averagings behind
};

struct MatchmakerOptions {
  std::shared_ptr<const Graph> graph;
  Pairing pairing = Pairing::available;
  double rate = 1;             // poisson: averagings of a worker per gradient
  std::int64_t gradients = 0;  // to be computed by all together, beside each one's first
  // Workers that are not there until so many gradients have been computed by all together. Then the
  // next neighbour that is ready gives x to one, and it is a worker as the others.
  struct Joiner {
    int worker = 0;
    std::int64_t after = 0;
  };
  std::vector<Joiner> joiners{};
  // available: who is silent for so long, when it owes a word, is lost; before two workers are told
  // to average, both are asked whether they are there. Absent: nobody is lost.
  std::optional<Seconds> deadline{};
};

namespace gossip {

inline constexpr const char* matchmaker = "matchmaker";
// To the matchmaker, all under one tag, so that it sees them in order.
inline constexpr Tag request = 1;
enum Request : std::int64_t {
  gradient,  // may I compute another one? Answered by `turn`
  ready,     // for an averaging: answered by `partner`, in time; poisson: done with one
  leave,     // I shall not ask any more
  resume,    // {resume, gradients that I had computed before this run}
  here,      // the answer to `ask`
};
// From the matchmaker.
inline constexpr Tag turn = 2;  // {1}, or {0}: there are no more
// {worker, go}: average; {worker, ask}: are you there for it; {worker, give}: give x to one that
// joins; {worker, take}: join with the x of that one; {nobody, go}: no neighbour is left, or you
// have left, or are lost, or are not needed any more.
inline constexpr Tag partner = 3;
inline constexpr std::int64_t nobody = -1;
enum Word : std::int64_t { ask, go, give, take };

}  // namespace gossip

// Workers are ranks 0 … n-1. Each is told `nobody` once, as its last partner.
World::ServiceProgram matchmaker_program(const MatchmakerOptions& options);

}  // namespace orrery
