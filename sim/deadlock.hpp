// What to say of a run in which nothing can happen any more.
#pragma once

#include "backend/core/error.hpp"
#include "sim/core.hpp"

namespace orrery::sim {

// Error{deadlock}: what every unfinished rank waits for, what the head of each of its streams is,
// and which communications lack which members, with their call sites.
Error describe_deadlock(const Core& core);

}  // namespace orrery::sim
