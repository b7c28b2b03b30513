// Folding: simulating one rank for all that do the same at the same times.
//
// Ranks of one recorded program (recording.hpp) are told apart until no rank of a class differs
// from another in the prices of its communications or in the classes that it communicates with (an
// equitable partition, found by refinement). Then, by induction over the instants of the run, all
// ranks of a class have equal times: an operation starts when the host and the operations before it
// let it, all equal within the class; a communication when the last of its members comes, which is
// a maximum over the same classes for every group of the class; and it takes the same price. So one
// rank of each class gives all their times, exactly, and nothing is asked of the platform but its
// prices: mixed clusters fold by class, and a ring that leaves its node at one hop folds where hops
// are alike.
#pragma once

#include <optional>

#include "sim/recording.hpp"

namespace orrery::sim {

struct Core;

// Nothing where no two ranks are alike, or where communications contend on links or devices vary;
// then `refusal` says why.
std::optional<Partition> fold(const SharedProgram& program, Core& core, Refusal& refusal);

}  // namespace orrery::sim
