// Kernels beside copies between device and host, as forecast and as measured.
#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "calibration/fit.hpp"
#include "platforms/cluster.hpp"
#include "tests/calibration/planted_device.hpp"

namespace orrery {
namespace {

// The same measurements in a simulation of a GPU that was calibrated.
DeviceBenchOptions bench_on(const Cluster& cluster) {
  DeviceBenchOptions options;
  options.run = [&cluster](int ranks, const World::Program& program) {
    return run_on(cluster, ranks, program);
  };
  return options;
}

const Cluster& h200() {
  static const Cluster cluster(
      read_platform(PlatformFolder(ORRERY_SOURCE_DIR), "one-h200-measured"), 1);
  return cluster;
}

}  // namespace

TEST_CASE("kernels beside copies from and to the host are forecast within 10 % of an H200's") {
  std::ifstream file(ORRERY_SOURCE_DIR "/scenarios/measured/interference-h200.json");
  const nlohmann::json measured = nlohmann::json::parse(file).at("interference");
  int compared = 0;
  for (const InterferenceSamples& s : measure_interference(bench_on(h200()))) {
    const std::string beside = s.beside;
    if (!beside.ends_with("the host")) continue;  // what others on the device take is not modelled
    CAPTURE(s.kernels);
    CAPTURE(beside);
    const double forecast = median(s.beside_it) / median(s.alone);
    for (const auto& m : measured)
      if (m.at("kernels") == s.kernels && m.at("beside") == beside) {
        CHECK(forecast == doctest::Approx(m.at("slowdown").get<double>()).epsilon(0.1));
        ++compared;
      }
  }
  CHECK(compared == 6);
}

TEST_CASE("a simulated copy between a GPU and its host takes its bytes over their link's rate") {
  const GpuSpec& gpu = h200().platform().parts.at(0).gpu;
  const double rate = gpu.link.host->bandwidth_per_direction.value.value,
               launch = gpu.compute.gemm.launch.value.value;
  for (const CopySamples& copy : measure_device_copies(bench_on(h200())))
    for (const double seconds : copy.seconds)
      CHECK(seconds ==
            doctest::Approx(launch + static_cast<double>(copy.size.value) / rate).epsilon(1e-6));
}

}  // namespace orrery
