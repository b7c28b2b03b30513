// Which of the model's copies a rank is part of.
#pragma once

#include "backend/rank.hpp"

namespace orrery {

// From 0, in the order in which replicas share out the samples of a step; the same on all ranks of
// a replica.
inline int replica_number(const Rank& rank) {
  int number = 0;
  for (const Axis axis : {Axis::island, Axis::replicate, Axis::shard, Axis::expert})
    number = number * rank.size(axis) + rank.part(axis);
  return number;
}

}  // namespace orrery
