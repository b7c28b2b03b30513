// What a pipeline asks of a scenario.
#pragma once

#include "scenarios/scenario.hpp"

namespace orrery {

// That the model's layers divide into the stages, or as parallel.layers says.
void check_layers(const Scenario& scenario, Problems& problems);
// What the schedule asks of devices, chunks and, where they are known, micro-batches.
void check_schedule(const Scenario& scenario, Problems& problems, bool micro_batches_known);

}  // namespace orrery
