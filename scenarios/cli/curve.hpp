// Loss by step, and what it took until then.
#pragma once

#include "scenarios/cli/result.hpp"

namespace orrery::cli {

// The number of the first step that a rank took in this run: workers that take turns end, and go
// on, at numbers of their own, and others may join on the way.
std::int64_t first_step(const ResultInput& in, const RankReport& rank);

// Fills loss and curve of a result whose input is there.
void fill_curve(Result& result, const RunReport& report);

}  // namespace orrery::cli
