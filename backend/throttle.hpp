// Links as slow as those of a cluster, on a machine whose own are fast: how long a communication
// takes over them at least. The CPU world waits that long, and the simulated world, asked to do the
// same, adds it to its clock; so there is one formula.
#pragma once

#include "backend/channel.hpp"
#include "backend/core/units.hpp"

namespace orrery {

// A communication that all members have come to ends no earlier than its latency-bandwidth time
// (ring and pairwise algorithms).
struct Throttle {
  Seconds latency{0};
  BytesPerSecond bandwidth{1e9};
};

// How long an operation on a buffer of `size` bytes (the whole) takes under a throttle, with n
// members: all_reduce 2(n-1)(a + S/(nB)); all_gather, reduce_scatter and all_to_all
// (n-1)(a + S/(nB)); broadcast (n-1)a + S/B; send, receive and exchange a + S/B. Nothing for one
// member.
Time throttled_time(const Throttle& throttle, Collective kind, Bytes size, int members);

}  // namespace orrery
