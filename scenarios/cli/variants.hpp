// One scenario simulated several times, each time a little changed: replicas of an imperfect
// cluster, and the question what limits a step.
#pragma once

#include <string>

#include "scenarios/cli/simulation.hpp"

namespace orrery::cli {

// Simulates the scenario in this process and, before that, each in a process of its own
//   - where run.replicas asks for them, clusters that differ in the seed of their conditions alone:
//     the scenario's is the first, the others have the seeds that follow;
//   - where run.explain_bottleneck asks for it, the scenario with one resource at a time made free
//     or twice as fast: arithmetic, memory, what launching costs, and the links of each tier.
Outcome simulate_with_variants(const Scenario& scenario, const Arguments& arguments,
                               const std::string& trace_path);

// Error{usage} where a scenario asks for what this command does not simulate.
void refuse_variants(const Scenario& scenario);
// Likewise for a run on this machine, which is in the condition that it is in.
void refuse_simulated(const Scenario& scenario);

}  // namespace orrery::cli
