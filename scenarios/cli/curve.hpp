// Loss by step, and what it took until then.
#pragma once

#include "scenarios/cli/result.hpp"

namespace orrery::cli {

// Fills loss and curve of a result whose input is there.
void fill_curve(Result& result, const RunReport& report);

}  // namespace orrery::cli
