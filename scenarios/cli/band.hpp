// The band of a forecast: how far the step time may be off by what its calibration was off.
//
// Every measured table says how far it was off on points held back from it, and how far its
// repetitions lay from their median (MeasuredErrorSpec::band). The scenario is simulated twice
// more: with the times of all tables at the low ends of their bands, and at the high ends. Moving
// all together is the worst case; tables that are off independently would partly cancel.
#pragma once

#include <optional>

#include "scenarios/scenario.hpp"

namespace orrery::cli {

struct Band {
  double low_s = 0, high_s = 0;  // step_time_s at the two ends, low_s <= high_s
};

// Empty for a platform without measured errors, and where a simulation at an end fails. Forks, as a
// process can simulate once: call it before the simulation and without other threads.
std::optional<Band> band_of(const Scenario& scenario);

}  // namespace orrery::cli
