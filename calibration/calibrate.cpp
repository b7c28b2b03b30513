#include "calibration/calibrate.hpp"

#include <fmt/format.h>

#include "backend/core/error.hpp"
#include "calibration/kernel_bench.hpp"
#include "calibration/platform_file.hpp"
#include "calibration/world_bench.hpp"

namespace orrery {

Calibration calibrate_cpu(const CalibrationOptions& options, const MachineFacts& machine) {
  if (options.ranks < 1 || options.ranks > 64)
    throw Error(Category::config,
                fmt::format("a calibration takes 1 to 64 ranks, not {}", options.ranks));
  Measurements measurements;
  WorldBenchOptions world;
  world.ranks = options.ranks;
  world.quick = options.quick;
  world.progress = [&](double share) { options.progress("collectives", share); };
  measure_world(world, measurements);
  KernelBenchOptions bench;
  if (options.ranks > 1) bench.busy.push_back(options.ranks);
  if (options.quick) bench.max_rounds = 2, bench.shortest_s = 20e-6;
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
