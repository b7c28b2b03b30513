// The calibration of this machine's CPU, from measuring to a platform.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "calibration/machine_facts.hpp"
#include "platforms/platform.hpp"

namespace orrery {

struct CalibrationOptions {
  int ranks = 2;       // the most that runs will have
  bool quick = false;  // a coarse grid and few repetitions: the form of a calibration, no use
  std::string name;    // of the platform; empty = the processor's name
  std::function<void(const std::string& what, double share)> progress = [](const std::string&,
                                                                           double) {};
};

// Error of one table on the points held back from it, as `orrery calibrate` reports it.
struct ClassError {
  std::string name;  // "gemm nn fp32, 2 busy", "all_reduce of 2"
  MeasuredErrorSpec error;
};

struct Calibration {
  ClusterSpec platform;
  std::vector<ClassError> classes;
};

// Measures kernels with one and with `ranks` busy threads, what the CPU world costs, and
// collectives of up to `ranks` ranks. At most three minutes on two cores. It sees no training step.
// Error{config} for ranks below 1 or above 64.
Calibration calibrate_cpu(const CalibrationOptions& options, const MachineFacts& machine);

// The errors of a platform's tables, kernels before collectives.
std::vector<ClassError> class_errors(const ClusterSpec& platform);

}  // namespace orrery
