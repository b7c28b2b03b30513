// What a model asks of the parallelism inside a replica.
#pragma once

#include "scenarios/scenario.hpp"

namespace orrery {

// Adds every reason why the model cannot be divided as the plan says.
void check_inside_replica(const Scenario& scenario, Problems& problems);

// Adds every reason why data.evaluate_every has nothing to evaluate, or no replicas to average.
void check_evaluation(const Scenario& scenario, Problems& problems);

// Whether some of the workers are not there from the start to the end, or not at every meeting.
bool workers_come_and_go(const Scenario& scenario);

// Refuses what is not available yet.
void refuse(Problems& problems, const char* path, const std::string& what,
            const std::string& advice = "");

// The divisors of n that are nearest to `wanted`, below and above, as advice.
std::string nearest_divisors(std::int64_t n, std::int64_t wanted);

}  // namespace orrery
