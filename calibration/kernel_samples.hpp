// What a bench records of a kernel point, whatever it times with.
#pragma once

#include "calibration/kernel_points.hpp"
#include "calibration/measurements.hpp"

namespace orrery {

// Without repetitions. Error{internal} for a kernel without a class.
KernelSamples samples_of(const KernelPoint& point, int busy);

// Seconds of the work at a place, of those of the whole kernel: attention is measured with several
// heads.
double share_at_place(const Kernel& kernel);

}  // namespace orrery
