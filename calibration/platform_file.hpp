// A platform made from measurements, and the file that holds it whole.
#pragma once

#include <string>

#include "calibration/machine_facts.hpp"
#include "calibration/measurements.hpp"
#include "platforms/platform.hpp"

namespace orrery {

// One node of as many GPUs (cores) as `ranks` or the machine's cores, the more of both, each with
// its share of the machine's memory; tables of kernels and collectives; host costs; and constants
// of the formulas for what no table covers: the fastest rates measured, and the GEMM edge fitted to
// the tables. Numbers without a source of their own are measured: to_text says so. Error{internal}
// for measurements that lack GEMMs or host costs.
ClusterSpec platform_of(const Measurements& measurements, const MachineFacts& machine, int ranks,
                        const std::string& name);

// What of a platform is named otherwise on a CPU and on GPUs.
struct PlatformWords {
  std::string link;       // between devices
  std::string attention;  // rows of the device's attention table
};
// One node of `devices` such devices, with the tables of collectives and the host costs.
// Error{internal} for measurements without host costs.
ClusterSpec platform_around(GpuSpec device, int devices, const PlatformWords& words,
                            const Measurements& measurements, const std::string& name);

// The cluster as YAML that reads back to it, `measured` being the source of every number that has
// none of its own. Lists of plain values take a few lines, not one for each value.
std::string to_text(const ClusterSpec& cluster, const Source& measured);

}  // namespace orrery
