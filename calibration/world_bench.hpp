// Times what the CPU world itself costs: issuing, waiting, control messages, collectives.
#pragma once

#include <functional>

#include "backend/world.hpp"
#include "calibration/measurements.hpp"

namespace orrery {

struct WorldBenchOptions {
  int ranks = 2;
  bool quick = false;
  std::function<void(double share)> progress = [](double) {};
};

// Host costs in a world of `ranks` ranks that all do the same, one of which is measured.
void measure_host(World& world, int ranks, bool quick, HostSamples& samples);

// Host costs in a CPU world of `ranks` ranks; collectives over groups of 2, 4, 8
// … and of all ranks. A collective is timed as training meets it, from the compute stream that
// waits for its stream and back, so the time to wake threads is part of it; sizes in turn, so that
// a drift hits all alike. With one rank there are no collectives and no control messages.
void measure_world(const WorldBenchOptions& options, Measurements& measurements);

}  // namespace orrery
