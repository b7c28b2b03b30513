// The calibration of devices, on one whose times are planted.
#include <doctest/doctest.h>

#include <algorithm>
#include <iterator>
#include <sstream>

#include "backend/core/error.hpp"
#include "calibration/calibrate.hpp"
#include "calibration/fit.hpp"
#include "calibration/platform_file.hpp"
#include "platforms/cluster.hpp"
#include "tests/calibration/planted_device.hpp"
#include "tests/support/near.hpp"

using namespace orrery;

namespace {

// All that a calibration measures of a machine of two planted devices; the host is planted, too.
Measurements planted_measurements() {
  Measurements m;
  m.kernels = measure_device_kernels(gpu_kernel_points(true, true), planted_bench());
  m.copies = measure_device_copies(planted_bench());
  m.collectives = measure_device_collectives(planted_bench(2));
  m.least = measure_least_kernels(planted_bench());
  m.host = planted_machine(true).host;
  return m;
}

GpuFacts planted_gpu() {
  return {"Planted(R) GPU (sm_90)", "CUDA 13.0", "2026-01-31", 2,   4,
          Bytes(8'000'000'000),     Watts(50),   Watts(300),   true};
}

Source gpu_source() {
  Source source;
  source.kind = SourceKind::measured;
  source.date = "2026-01-31";
  source.device = "planted";
  source.driver = "none";
  source.command = "a test";
  return source;
}

double seconds(Time time) { return time.seconds().value; }

void scale_compute(RankReport& report, std::uint64_t by, std::uint64_t over) {
  std::vector<StepMark> marks(report.steps.begin(), report.steps.end());
  for (StepMark& mark : marks)
    mark.parts.compute = Time(mark.parts.compute.picoseconds * by / over);
  report.steps = {marks.begin(), marks.end()};
}

}  // namespace

TEST_CASE("a planted device's kernels are measured as they are, in every type and every round") {
  const auto samples = measure_device_kernels(gpu_kernel_points(true, true), planted_bench());
  for (const KernelSamples& s : samples) {
    CAPTURE(s.kernels);
    std::vector<MeasuredAxisSpec> axes;
    for (const std::string& name : s.axes) axes.push_back({name, {1}});
    CHECK(s.seconds.size() >= 2);
    const double slowness = s.kernels.starts_with("attention") ? planted_attention : 1;
    for (const double measured : s.seconds)
      CHECK(measured == near(work_at(axes, s.at) * slowness / planted_rate, 1e-3));
  }
  for (const char* kernels :
       {"gemm nn bf16", "gemm nt fp16", "gemm tn accumulate fp32", "attention_backward causal bf16",
        "gemm nn fp8", "gemm nt fp8", "gemm tn fp8", "gemm tn accumulate fp8", "adamw bf16",
        "adamw bf16 gradient fp32", "cast fp32 bf16", "norm_backward rms fp32"})
    CHECK_MESSAGE(std::any_of(samples.begin(), samples.end(),
                              [&](const KernelSamples& s) { return s.kernels == kernels; }),
                  kernels);
}

TEST_CASE("copies and collectives of planted devices are measured as they are") {
  for (const CopySamples& copy : measure_device_copies(planted_bench()))
    for (const double measured : copy.seconds)
      CHECK(measured ==
            near(static_cast<double>(copy.size.value) / planted_rate, 1e-6));  // in or out
  const UniformMachine machine = planted_devices(4);
  const auto collectives = measure_device_collectives(planted_bench(4));
  for (const CollectiveSamples& s : collectives) {
    CAPTURE(name(s.operation));
    CAPTURE(s.members);
    CAPTURE(s.size.value);
    std::vector<int> members;
    for (int i = 0; i < s.members; ++i) members.push_back(i);
    const Time expected = s.operation == Collective::send || s.operation == Collective::exchange
                              ? machine.message_time(0, 1, s.size)
                              : machine.plan(s.operation, s.size, members).total;
    for (const double measured : s.seconds) CHECK(measured == near(seconds(expected), 1e-6));
  }
  CHECK(std::count_if(collectives.begin(), collectives.end(), [](const CollectiveSamples& s) {
          return s.operation == Collective::all_reduce && s.members == 4;
        }) == 3);
}

TEST_CASE("what runs beside a kernel makes it as much slower as it was made") {
  DeviceBenchOptions options = planted_bench();
  // Runs: the GEMMs alone; then, of each kind of work beside them, one of it and the GEMMs beside
  // many.
  int runs = 0;
  options.run = [&](int ranks, const World::Program& program) {
    RunReport report = run_on_planted(ranks, program);
    const bool beside = runs > 0 && runs % 2 == 0;
    ++runs;
    if (beside) scale_compute(report.ranks[0], 3, 2);
    return report;
  };
  const auto all = measure_interference(options);
  std::vector<std::string> beside;
  for (const InterferenceSamples& s : all) {
    beside.emplace_back(s.beside);
    CHECK(s.kernels == "gemm nn bf16, m 32, n 32, k 32");
    CHECK(median(s.alone) == near(2 * 32.0 * 32 * 32 / planted_rate, 1e-6));  // two of them
    CHECK(median(s.beside_it) == near(1.5 * median(s.alone), 1e-6));
  }
  CHECK(beside ==
        std::vector<std::string>{"copy", "reduction", "copy from the host", "copy to the host"});
}

TEST_CASE("the least kernel of a planted device takes what one element does, issued or not") {
  const LeastSamples least = measure_least_kernels(planted_bench());
  for (const double seconds : least.kernel) CHECK(seconds == near(1 / planted_rate, 1e-6));
  for (const double seconds : least.operation) CHECK(seconds == near(1 / planted_rate, 1e-6));
  CHECK(least.graph.empty());
  DeviceBenchOptions options = planted_bench();
  options.run_as_graphs = [](int ranks, const World::Program& program) {
    RunReport report = run_on_planted(ranks, program);  // in half the time
    scale_compute(report.ranks[0], 1, 2);
    return report;
  };
  const LeastSamples both = measure_least_kernels(options);
  REQUIRE(both.graph.size() == both.kernel.size());
  CHECK(both.issued_graph.size() == both.issued.size());
  for (const double seconds : both.graph) CHECK(seconds == near(0.5 / planted_rate, 1e-3));
}

TEST_CASE("kernels are measured twice on no budget at all, and more often while it lasts") {
  DeviceBenchOptions options = planted_bench();
  options.budget_s = 0;
  options.max_rounds = 9;
  for (const KernelSamples& s : measure_device_kernels(gpu_kernel_points(true, true), options))
    CHECK(s.seconds.size() == 2);
  options.budget_s = 1e9;
  for (const KernelSamples& s : measure_device_kernels(gpu_kernel_points(true, true), options))
    CHECK(s.seconds.size() == 9);
}

TEST_CASE("no point that is held back is on the grid of its class") {
  for (const bool gpu : {false, true}) {
    const auto points = gpu ? gpu_kernel_points(false, true) : kernel_points(false);
    for (const KernelPoint& held : points)
      for (const KernelPoint& point : points)
        if (held.held_back && !point.held_back && held.kernel.op == point.kernel.op)
          REQUIRE_FALSE(held.kernel == point.kernel);
  }
}

TEST_CASE("the products of two Llama models are held back from a GPU's full calibration") {
  const auto points = gpu_kernel_points(false, true);
  const auto held_back = [&](const Kernel& kernel) {
    return std::any_of(points.begin(), points.end(), [&](const KernelPoint& point) {
      return point.held_back && point.kernel == kernel;
    });
  };
  CHECK(held_back(Kernel::gemm(12288, 16384, 2048, Dtype::bf16)));
  CHECK(held_back(Kernel::gemm(12288, 14336, 4096, Dtype::bf16, false, true)));
  CHECK(held_back(Kernel::gemm(128256, 2048, 12288, Dtype::bf16, true, false, false)));
}

TEST_CASE("a full calibration fits into an H100 and into its budget, measured on a simulated one") {
  DeviceBenchOptions options;
  const auto points = gpu_kernel_points(false, true);
  double seconds = 0, gigabytes = 0;
  options.run = [&](int ranks, const World::Program& program) {
    std::istringstream said(in_child([&] {
      const Cluster h100(read_platform(PlatformFolder(ORRERY_SOURCE_DIR), "one-dgx-h100"), ranks);
      WorldOptions world;
      world.grid.set(Axis::replicate, ranks);
      SimOptions sim;
      sim.machine = &h100;
      sim.fidelity = Fidelity::analytic;
      const RunReport report = make_sim_world(world, sim)->run(program);
      return std::to_string(report.ranks[0].steps.back().at.seconds().value) + " " +
             std::to_string(static_cast<double>(report.ranks[0].peak.value) * 1e-9) + "\n" +
             marks_text(report);
    }));
    said >> seconds >> gigabytes;
    return marks_from(std::string(std::istreambuf_iterator<char>(said), {}), ranks);
  };
  const auto samples = measure_device_kernels(points, options);
  MESSAGE(points.size() << " points take " << seconds << " s and " << gigabytes << " GB");
  CHECK(std::all_of(samples.begin(), samples.end(),
                    [](const KernelSamples& s) { return s.seconds.size() == 3; }));
  CHECK(seconds < 60);  // besides cuBLASLt's choices and the host
  CHECK(gigabytes < 40);
  CHECK_NOTHROW(kernel_tables(samples));
}

TEST_CASE(
    "a platform of planted GPUs has their rates, reads back, and prices kernels as measured") {
  const Measurements measured = planted_measurements();
  const ClusterSpec made = gpu_platform_of(measured, planted_gpu(), "planted");
  const GpuSpec& gpu = made.gpus[0];
  // 2 FLOP per m n k; picoseconds of the smallest points.
  CHECK(gpu.compute.peak.bf16->value.value == doctest::Approx(2 * planted_rate).epsilon(1e-3));
  CHECK(gpu.compute.peak.fp16->value.value == doctest::Approx(2 * planted_rate).epsilon(1e-3));
  CHECK(gpu.compute.peak.fp8->value.value == doctest::Approx(2 * planted_rate).epsilon(1e-3));
  CHECK(gpu.memory.capacity.value == Bytes(8'000'000'000));
  CHECK(gpu.compute.sm.value == 4);
  CHECK(gpu.compute.gemm.launch.value == Seconds(1e-9));
  CHECK(gpu.power->peak.value == Watts(300));
  CHECK(gpu.link.host->bandwidth_per_direction.value.value == doctest::Approx(planted_rate));
  REQUIRE(gpu.compute.attention.size() == 2);
  // At 2 FLOP per s^2 d, of which a backward pass has 2.5 times as many as a forward one.
  CHECK(gpu.compute.attention[0].forward.value ==
        doctest::Approx(1 / planted_attention).epsilon(1e-2));
  CHECK(gpu.compute.attention[0].backward.value ==
        doctest::Approx(2.5 / planted_attention).epsilon(1e-2));
  for (const auto& [name, error] : class_errors(made)) {
    if (error.held_back == 0 || name.ends_with(" of 2")) continue;
    CAPTURE(name);
    CHECK(error.max_abs < 2e-3);  // between two points of a plane in logarithms
    CHECK(error.spread < 1e-3);
  }
  const ClusterSpec read =
      ::orrery::read<ClusterSpec>(Document::parse_text(to_text(made, gpu_source()), "p.yaml"),
                                  {Sources::required, UnknownKeys::error});
  CHECK(read.gpus[0].measured == gpu.measured);
  CHECK(read.collectives.measured == made.collectives.measured);
}

TEST_CASE(
    "a calibration of GPUs without copies, products or power is refused, or leaves them out") {
  Measurements measured = planted_measurements();
  GpuFacts facts = planted_gpu();
  facts.idle.reset();
  CHECK_FALSE(gpu_platform_of(measured, facts, "planted").gpus[0].power);
  std::vector<CopySamples> copies;
  std::swap(copies, measured.copies);
  CHECK_THROWS_AS(gpu_platform_of(measured, facts, "planted"), Error);
  std::swap(copies, measured.copies);
  std::erase_if(measured.kernels,
                [](const KernelSamples& s) { return s.kernels.starts_with("gemm"); });
  CHECK_THROWS_AS(gpu_platform_of(measured, facts, "planted"), Error);
}
