// ZeRO and FSDP as scenarios write them: `zero` names a stage, `fsdp` is the third with all that
// can be chosen about it.
#pragma once

#include "algorithms/algorithm_table.hpp"

namespace orrery {

AlgorithmPlan read_zero(const Node& options, Problems& problems);
AlgorithmPlan read_fsdp(const Node& options, Problems& problems);

}  // namespace orrery
