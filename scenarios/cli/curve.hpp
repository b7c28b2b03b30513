// Loss by step, and what it took until then.
#pragma once

#include "scenarios/cli/result.hpp"

namespace orrery::cli {

// Fills loss and curve of a result whose input is there. A step is that of all
// workers; where they take steps as they come to them, it is as many of their steps as there are
// workers, in the order in which these ended.
void fill_curve(Result& result, const RunReport& report);

}  // namespace orrery::cli
