// The matchmaker: a program beside the workers that pairs them for averaging, and deals out the
// gradients that are still to be computed.
#pragma once

#include <functional>
#include <memory>

#include "algorithms/gossip/graph.hpp"
#include "backend/world.hpp"

namespace orrery {

// How pairs come about.
enum class Pairing : std::uint8_t {
  available,  // a worker that is ready is paired with a neighbour that waits, a random one of them
  poisson,    // every edge has a Poisson clock; workers average in the order of its ticks
};

struct MatchmakerOptions {
  std::shared_ptr<const Graph> graph;
  Pairing pairing = Pairing::available;
  double rate = 1;             // poisson: averagings of a worker per gradient
  std::int64_t gradients = 0;  // to be computed by all together, beside each one's first
  std::function<void(Seconds, int, int)> paired{};  // told of every pair
};

namespace gossip {

inline constexpr const char* matchmaker = "matchmaker";
// To the matchmaker, all under one tag, so that it sees them in order.
inline constexpr Tag request = 1;
enum Request : std::int64_t {
  gradient,  // may I compute another one? Answered by `turn`
  ready,     // for an averaging. Answered by `partner`, in time
  leave,     // I shall not ask any more
  resume,    // {resume, gradients that I had computed before this run}
};
// From the matchmaker.
inline constexpr Tag turn = 2;     // {1}, or {0}: there are no more
inline constexpr Tag partner = 3;  // {worker}, or {nobody}: no neighbour is left, or you have left
inline constexpr std::int64_t nobody = -1;

}  // namespace gossip

// Workers are ranks 0 … n-1. Each is told `nobody` once, as its last partner. It is ready to be
// left by all of them.
World::ServiceProgram matchmaker_program(const MatchmakerOptions& options);

}  // namespace orrery
