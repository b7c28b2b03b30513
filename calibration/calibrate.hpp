// The calibration of this machine, its CPU or its GPUs, from measuring to a platform.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "calibration/device_bench.hpp"
#include "calibration/gpu_platform.hpp"
#include "calibration/machine_facts.hpp"
#include "platforms/platform.hpp"

namespace orrery {

struct CalibrationOptions {
  int ranks = 2;          // the most that runs will have
  bool quick = false;     // a coarse grid and few repetitions: the form of a calibration, no use
  double budget_s = 165;  // on the clock, all in all
  std::string name;       // of the platform; empty = the processor's name
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
// collectives of up to `ranks` ranks. Kernels come last and are measured again and again while the
// budget lasts; every one is measured at least twice. It sees no training step. Error{config} for
// ranks below 1 or above 64.
Calibration calibrate_cpu(const CalibrationOptions& options, const MachineFacts& machine);

// The slowdown of kernels by what runs beside them: with it / alone.
struct Interference {
  std::string kernels, beside;
  double slowdown = 1;
};

struct GpuCalibration : Calibration {
  std::vector<Interference> interference;
  Seconds least_kernel, least_operation;  // of a kernel of one element; as an operation of its own
  Seconds least_in_graph;                 // in a CUDA graph; 0, as what follows: not measured
  Seconds issued, issued_graph;  // what 16 such kernels cost the host, one by one and as a graph
};

struct GpuCalibrationOptions {
  bool quick = false;
  double budget_s = 150;  // on the clock, all in all
  std::string name;       // of the platform; empty = the GPU's name
  RunRanks run;           // on ranks with a GPU each
  RunRanks
      run_as_graphs;  // the same, sequences that come again being graphs; empty: there are none
  std::function<std::unique_ptr<World>(int ranks)> world;  // the same, for host costs
  std::function<void(const std::string& what, double share)> progress = [](const std::string&,
                                                                           double) {};
};

// Measures kernels, copies and interference on the first GPU, what issuing costs its host, and
// collectives of all GPUs. Kernels come last and are measured again and again while the budget
// lasts; every one is measured at least twice, whatever it takes. It sees no training step.
GpuCalibration calibrate_gpus(const GpuCalibrationOptions& options, const GpuFacts& facts);

// The errors of a platform's tables, kernels before collectives.
std::vector<ClassError> class_errors(const ClusterSpec& platform);

}  // namespace orrery
