// What a scenario says of memory and precision.
#pragma once

#include "scenarios/scenario.hpp"

namespace orrery {

// Recomputation, whose resolved form it fills in.
void check_memory(Scenario& scenario, Problems& problems);
void check_precision(const Scenario& scenario, Problems& problems);
// Of recomputation, attention, dropout and products what needs the model, which must be known.
void check_inside_layers(Scenario& scenario, Problems& problems);

}  // namespace orrery
