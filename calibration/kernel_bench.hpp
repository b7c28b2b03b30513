// Times kernels on this machine's CPU, by the bodies that `run --world cpu` uses.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "calibration/kernel_points.hpp"
#include "calibration/measurements.hpp"

namespace orrery {

struct KernelBenchOptions {
  std::vector<int> busy{1};  // threads that run a kernel at once: each number is measured
  double budget_s = 140;     // rounds end when the next one would not fit; there are at least 2
  int max_rounds = 9;
  double shortest_s = 0.5e-3;  // a measurement repeats its kernel for at least so long
  std::function<void(int round, double share)> progress = [](int, double) {};
};

// Every point in every round, in an order that is shuffled anew per round, so that a drift of the
// machine hits all alike; once for each number of busy threads. A thread has memory of its own and
// takes its operands from sixteen places in turn (fewer when they do not fit into 32 MiB): what a
// kernel reads was last touched as long ago as in a training step, which keeps a few tensors of a
// kernel's size per layer.
std::vector<KernelSamples> measure_kernels(const std::vector<KernelPoint>& points,
                                           const KernelBenchOptions& options);

}  // namespace orrery
