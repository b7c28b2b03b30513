// Times kernels, copies and collectives on devices through a world that runs programs there.
//
// A time is what the compute stream spent between two marks of steps, which a world takes from the
// device's own clock: CUDA's events. So whatever has a world can be measured, a simulated machine
// with known times, too.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "backend/world.hpp"
#include "calibration/kernel_points.hpp"
#include "calibration/measurements.hpp"

namespace orrery {

// Runs a program on ranks 0 … ranks - 1 along the axis `replicate`, each with a device of its own,
// and tells what they reported. What a program captures need not change.
using RunRanks = std::function<RunReport(int ranks, const World::Program& program)>;

struct DeviceBenchOptions {
  RunRanks run;
  RunRanks run_as_graphs = {};  // where sequences that come again are graphs; empty: nowhere
  int devices = 1;              // that communicate
  bool quick = false;           // few sizes and repetitions
  double budget_s = 120;        // of the rank's clock for kernels, from the first look on
  int max_rounds = 3;
  double shortest_s = 0.5e-3;           // a measurement repeats its kernel for at least so long
  Bytes memory{std::int64_t{1} << 30};  // over which operands move, so that no cache holds them
  std::function<void(const std::string& what, double share)> progress = [](const std::string&,
                                                                           double) {};
};

// First a look at each point, which tells how often its kernel must be repeated; then rounds, in an
// order that is shuffled anew per round. All points are measured in the first two rounds, whatever
// the budget; then those that take less than a tenth of a second, until the time is over. A
// measurement is one operation of several equal kernels, whose operands, random numbers, lie at up
// to sixteen places in turn. It is issued while the device still works on a large product and a
// fill, so that the host's issuing is no part of it, and the device's clock is that of training.
std::vector<KernelSamples> measure_device_kernels(const std::vector<KernelPoint>& points,
                                                  const DeviceBenchOptions& options);

// What a kernel of one element takes on a device, from one to the next: the least that any takes;
// what such a kernel takes that is an operation of its own, between events; and one in a graph.
LeastSamples measure_least_kernels(const DeviceBenchOptions& options);

// Both ways between a device and pinned memory of its host, by size.
std::vector<CopySamples> measure_device_copies(const DeviceBenchOptions& options);

// Of groups of 2, 4, 8 … and all devices. None for one device.
std::vector<CollectiveSamples> measure_device_collectives(const DeviceBenchOptions& options);

// Products, large and short, and norms: alone, beside copies on the device, beside additions of one
// buffer to another, and beside copies from and to the host, each of which go on for three times as
// long as the kernels take alone.
std::vector<InterferenceSamples> measure_interference(const DeviceBenchOptions& options);

}  // namespace orrery
