// A calibration of GPUs from end to end, on the double. Its times are not looked at.
#include "calibration/calibrate.hpp"

#include <algorithm>
#include <filesystem>

#include "backend/core/text.hpp"
#include "backend/cuda/gpu/power.hpp"
#include "calibration/platform_file.hpp"
#include "platforms/cluster.hpp"
#include "tests/cpu/cpu_world.hpp"
#include "tests/cuda/double_world.hpp"

namespace orrery {

TEST_CASE("a quick calibration of two GPUs measures every class and makes a platform of them") {
  GpuCalibrationOptions options;
  options.quick = true;
  options.name = "double";
  options.world = [](int ranks) {
    WorldOptions world = options_for(Axis::replicate, ranks);
    world.bodies = &cpu_bodies();
    return cuda::make_cuda_world(std::move(world), on_the_double());
  };
  options.run = [&](int ranks, const World::Program& program) {
    return options.world(ranks)->run(program);
  };
  const GpuFacts facts{"Double (sm_90)",      "CUDA 13.0", "2026-01-31", 2,   132,
                       Bytes(80'000'000'000), {},          {},           true};
  options.run_as_graphs = [](int ranks, const World::Program& program) {
    WorldOptions world = options_for(Axis::replicate, ranks);
    world.bodies = &cpu_bodies();
    cuda::CudaOptions graphs = on_the_double();
    graphs.graphs = true;
    return cuda::make_cuda_world(std::move(world), std::move(graphs))->run(program);
  };
  const GpuCalibration made = calibrate_gpus(options, facts);
  CHECK(made.least_in_graph > Seconds(0));
  CHECK(made.issued_graph > Seconds(0));
  const GpuSpec& gpu = made.platform.gpus[0];
  for (const MeasuredTableSpec& table : gpu.measured)
    for (const Seconds time : table.times) CHECK(time > Seconds(0));
  for (const char* kernels : {"gemm nn bf16", "gemm nn fp16", "gemm tn accumulate fp8",
                              "attention causal bf16", "adamw fp32"})
    CHECK(std::any_of(gpu.measured.begin(), gpu.measured.end(),
                      [&](const MeasuredTableSpec& table) { return table.kernels == kernels; }));
  CHECK(made.platform.collectives.measured.size() == 7);
  CHECK(gpu.link.host->bandwidth_per_direction.value > BytesPerSecond(0));
  CHECK_FALSE(gpu.power);
  REQUIRE(made.interference.size() == 4);
  for (const Interference& i : made.interference) CHECK(i.slowdown > 0);
  CHECK(made.classes.size() == gpu.measured.size() + 7);

  Source source;
  source.kind = SourceKind::measured;
  source.date = facts.date;
  source.device = facts.device;
  source.driver = facts.driver;
  source.command = "a test";
  const auto folder = std::filesystem::temp_directory_path() / "orrery_gpu_calibration_test";
  std::filesystem::create_directories(folder);
  const std::string file = (folder / "double.yaml").string();
  write_file_atomically(file, to_text(made.platform, source));
  const Cluster cluster(read_platform(PlatformFolder(ORRERY_SOURCE_DIR), file), 2);
  const Kernel gemm = Kernel::gemm(64, 64, 64, Dtype::bf16);
  CHECK(cluster.kernel_time(gemm, cost(gemm), 0).picoseconds > 0);
  std::filesystem::remove_all(folder);
}

TEST_CASE("a GPU's power is what NVML says, and nothing where there is none") {
  setenv("ORRERY_CUDA_LIBRARIES", ORRERY_LIBRARY_DOUBLES, 1);
  const auto power = cuda::power_of(0);
  REQUIRE(power);
  CHECK(power->now.value == doctest::Approx(71.5));
  CHECK(power->limit.value == doctest::Approx(700));
  CHECK_FALSE(cuda::power_of(1));  // of which NVML knows nothing
}

}  // namespace orrery
