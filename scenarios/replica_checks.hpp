// What a model asks of the parallelism inside a replica.
#pragma once

#include "scenarios/scenario.hpp"

namespace orrery {

// Adds every reason why the model cannot be divided as the plan says.
void check_inside_replica(const Scenario& scenario, Problems& problems);

// The divisors of n that are nearest to `wanted`, below and above, as advice.
std::string nearest_divisors(std::int64_t n, std::int64_t wanted);

}  // namespace orrery
