#include "calibration/calibrate.hpp"

#include <fmt/format.h>

#include "backend/core/error.hpp"
#include "calibration/fit.hpp"
#include "calibration/fitted_numbers.hpp"
#include "calibration/kernel_bench.hpp"
#include "calibration/monotonic.hpp"
#include "calibration/platform_file.hpp"
#include "calibration/world_bench.hpp"

namespace orrery {

Calibration calibrate_cpu(const CalibrationOptions& options, const MachineFacts& machine) {
  if (options.ranks < 1 || options.ranks > 64)
    throw Error(Category::config,
                fmt::format("a calibration takes 1 to 64 ranks, not {}", options.ranks));
  const Monotonic::time_point start = Monotonic::now();
  Measurements measurements;
  WorldBenchOptions world;
  world.ranks = options.ranks;
  world.quick = options.quick;
  world.progress = [&](double share) { options.progress("collectives", share); };
  measure_world(world, measurements);
  KernelBenchOptions bench;
  if (options.ranks > 1) bench.busy.push_back(options.ranks);
  if (options.quick) bench.max_rounds = 2, bench.shortest_s = 20e-6;
  bench.budget_s = options.budget_s - seconds_since(start);
  bench.progress = [&](int round, double share) {
    options.progress(round == 0 ? "kernels, first look" : fmt::format("kernels, round {}", round),
                     share);
  };
  measurements.kernels = measure_kernels(kernel_points(options.quick), bench);
  Calibration out;
  const std::string name = options.name.empty() ? file_name_of(machine.processor) : options.name;
  out.platform = platform_of(measurements, machine, options.ranks, name);
  out.classes = class_errors(out.platform);
  return out;
}

GpuCalibration calibrate_gpus(const GpuCalibrationOptions& options, const GpuFacts& facts) {
  const Monotonic::time_point start = Monotonic::now();
  DeviceBenchOptions bench;
  bench.run = options.run;
  bench.run_as_graphs = options.run_as_graphs;
  bench.devices = facts.gpus;
  bench.quick = options.quick;
  bench.progress = options.progress;
  if (options.quick) bench.max_rounds = 2, bench.shortest_s = 0, bench.memory = Bytes(1 << 16);
  Measurements measurements;
  options.progress("issuing", 0);
  measure_host(*options.world(facts.gpus), facts.gpus, options.quick, measurements.host);
  measurements.least = measure_least_kernels(bench);
  measurements.copies = measure_device_copies(bench);
  measurements.collectives = measure_device_collectives(bench);
  measurements.interference = measure_interference(bench);
  bench.budget_s = options.budget_s - seconds_since(start);
  measurements.kernels = measure_device_kernels(gpu_kernel_points(options.quick, facts.fp8), bench);
  GpuCalibration out;
  const std::string name = options.name.empty() ? file_name_of(facts.device) : options.name;
  out.platform = gpu_platform_of(measurements, facts, name);
  out.classes = class_errors(out.platform);
  out.least_kernel = typical(measurements.least.kernel);
  out.least_operation = typical(measurements.least.operation);
  if (!measurements.least.graph.empty()) {
    out.least_in_graph = typical(measurements.least.graph);
    out.issued = typical(measurements.least.issued);
    out.issued_graph = typical(measurements.least.issued_graph);
  }
  for (const InterferenceSamples& s : measurements.interference)
    out.interference.push_back({s.kernels, s.beside, median(s.beside_it) / median(s.alone)});
  return out;
}

std::vector<ClassError> class_errors(const ClusterSpec& platform) {
  std::vector<ClassError> out;
  for (const GpuSpec& gpu : platform.gpus)
    for (const MeasuredTableSpec& table : gpu.measured)
      if (table.error)
        out.push_back({fmt::format("{}, {} busy", table.kernels, table.busy), *table.error});
  for (const CollectiveTableSpec& table : platform.collectives.measured)
    if (table.error)
      out.push_back({fmt::format("{} of {}", table.operation, table.members), *table.error});
  return out;
}

}  // namespace orrery
