// Every GPU, node and cluster of platforms/ answers what a simulation asks, at any size.
#include <doctest/doctest.h>

#include <cmath>
#include <map>

#include "backend/core/error.hpp"
#include "platforms/cluster.hpp"
#include "platforms/kernel_time.hpp"
#include "tests/platforms/own_folder.hpp"

using namespace orrery;

namespace {

bool finite_positive(double value) { return std::isfinite(value) && value > 0; }

// One kernel of each class that has a price of its own, in one type.
std::vector<Kernel> kernels(Dtype type) {
  constexpr std::int64_t rows = 4096, cols = 2048;
  return {Kernel::gemm(rows, 3 * cols, cols, type),
          Kernel::gemm(cols, cols, rows, type, true, false, true),
          Kernel::implicit_gemm("gathered", rows, 64, 576, rows * 64, rows * 64, type,
                                {Role::read, Role::read, Role::write}),
          Kernel::convolution({16, 16, 64, 64, 3, 1}, type),
          Kernel::batch_norm(rows, 64, 1e-5, 0.1, type),
          Kernel::max_pool(16, 16, 64, 3, 2, type),
          Kernel::attention(1, 16, 4, 1024, 128, true, type),
          Kernel::attention_backward(1, 16, 16, 1024, 64, true, type),
          Kernel::attention(2, 8, 8, 512, 80, false, type),
          Kernel::norm(rows, cols, Norm::rms, 1e-5, type),
          Kernel::gated_activation(rows, cols, Activation::silu, type),
          Kernel::residual_add(rows, cols, type),
          Kernel::embedding(rows, cols, 32000, type),
          Kernel::cross_entropy(rows, 32000, 1, type),
          Kernel::adamw(rows * cols, 1e-3, 0.9, 0.95, 1e-8, 0.1, type),
          Kernel::cast(rows * cols, Dtype::fp32, type),
          Kernel::fft("fft", rows, 512, type)};
}

const std::optional<Sourced<FlopsPerSecond>>& own_peak(const PeakSpec& p, Dtype type) {
  switch (type) {
    case Dtype::fp64:
      return p.fp64;
    case Dtype::fp32:
      return p.fp32;
    case Dtype::fp16:
      return p.fp16;
    case Dtype::fp8:
      return p.fp8;
    case Dtype::fp4:
      return p.fp4;
    default:
      return p.bf16;
  }
}

// About 64 GPUs, evenly spread.
std::vector<int> spread(int gpus) {
  std::vector<int> out;
  for (int g = 0; g < gpus; g += std::max(1, gpus / 64)) out.push_back(g);
  return out;
}

// Prices what a training step asks of a machine of this size.
void check_machine(const Cluster& c) {
  const int last = c.gpus() - 1;
  const Kernel k = Kernel::gemm(4096, 4096, 4096, Dtype::fp16);
  for (const int g : {0, last}) {
    CHECK(c.kernel_time(k, cost(k), c.kind(g)) > Time{});
    CHECK(c.device_memory(g) > Bytes(1'000'000'000));
  }
  if (last == 0) return;
  for (const int to : {1, last}) {
    CHECK(c.latency(0, to) > Time{});
    CHECK(finite_positive(c.bandwidth(0, to).value));
  }
  for (const Collective kind :
       {Collective::all_reduce, Collective::all_gather, Collective::reduce_scatter,
        Collective::all_to_all, Collective::broadcast}) {
    const CollectivePlan plan = c.plan(kind, Bytes(64 << 20), spread(c.gpus()));
    CHECK(plan.total > Time{});
    CHECK(plan.steps > 0);
    CHECK(plan.total < to_time(Seconds(60)));
  }
}

}  // namespace

TEST_CASE("every GPU prices every class of kernel in every type that it has a peak for") {
  const StackSpec stack = folder.stack("generic");
  for (const std::string& name : folder.names(PlatformKind::gpu)) {
    const GpuSpec gpu = folder.gpu(name);
    int types = 0;
    for (const Dtype type : {Dtype::fp64, Dtype::fp32, Dtype::bf16, Dtype::fp16, Dtype::fp8}) {
      if (!own_peak(gpu.compute.peak, type)) continue;
      ++types;
      for (const Kernel& kernel : kernels(type)) {
        const double t = kernel_time(kernel, cost(kernel), gpu, stack).value;
        CAPTURE(name);
        CAPTURE(orrery::name(type));
        CAPTURE(orrery::name(kernel.op));
        CHECK(finite_positive(t));
        CHECK(t < (name == "cpu-core" ? 100 : 1));
      }
    }
    CAPTURE(name);
    CHECK(types >= 3);
  }
}

TEST_CASE("no GPU beats its peak, and every GPU has links slower than its memory, and power") {
  const StackSpec stack = folder.stack("generic");
  for (const std::string& name : folder.names(PlatformKind::gpu)) {
    CAPTURE(name);
    const GpuSpec gpu = folder.gpu(name);
    const Kernel k = Kernel::gemm(16384, 16384, 16384, Dtype::fp16);
    const double share = cost(k).matrix.value / kernel_time(k, cost(k), gpu, stack).value /
                         gpu.peak(Dtype::fp16).value.value;
    CHECK(share < 1);
    CHECK(share > 0.4);
    REQUIRE(gpu.link.scale_up);
    REQUIRE(gpu.link.host);
    CHECK(gpu.link.scale_up->bandwidth_per_direction.value < gpu.memory.bandwidth.value);
    REQUIRE(gpu.power);
    CHECK(gpu.power->idle.value < gpu.power->peak.value);
  }
}

TEST_CASE("a V100 refuses bf16, which its tensor cores do not know") {
  CHECK_THROWS_AS(folder.gpu("v100").peak(Dtype::bf16), Error);
}

TEST_CASE("a CPU core is a device of its own: three orders of magnitude below a GPU, in any type") {
  const Cluster cpu(read_platform(folder, "this-cpu", "cpu-world"));
  CHECK(cpu.gpus() == 16);
  CHECK(cpu.node(15) == 0);
  for (const Dtype type : {Dtype::fp32, Dtype::bf16}) {
    const Kernel k = Kernel::gemm(1024, 1024, 1024, type);
    const double rate = cost(k).matrix.value / cpu.kernel_time(k, cost(k), 0).seconds().value;
    CHECK(rate > 2e10);
    CHECK(rate < cpu.peak(type).value / 16);
  }
  CHECK(cpu.host(0).launch < Time(1'000'000));  // no CUDA driver in between
  for (const Assumption& a : cpu.assumptions()) CHECK(!a.reason.empty());
}

TEST_CASE("every cluster becomes a machine of one GPU, of one node and of its full size") {
  for (const std::string& name : folder.names(PlatformKind::cluster)) {
    CAPTURE(name);
    const Platform platform = read_platform(folder, name);
    const int node = static_cast<int>(platform.parts.front().node.gpus.count.value);
    for (const int size : {1, node, 0}) {
      CAPTURE(size);
      const Cluster cluster(platform, size);
      CHECK(cluster.gpus() == (size == 0 ? platform.gpus() : size));
      check_machine(cluster);
    }
  }
}

TEST_CASE("clusters that people know have the size that people know") {
  const std::map<std::string, int> sizes{{"one-dgx-a100", 8},
                                         {"one-dgx-h100", 8},
                                         {"one-dgx-h200", 8},
                                         {"one-dgx-b200", 8},
                                         {"four-a100", 4},
                                         {"NVL72", 72},
                                         {"Selene", 4480},
                                         {"Eos", 4608},
                                         {"Meta 24K", 24576},
                                         {"dgx-h100-superpod", 1016},
                                         {"frontier", 75264},
                                         {"Jean Zay", 1456},
                                         {"aurora", 127488},
                                         {"El Capitan", 44544},
                                         {"jupiter", 24000},
                                         {"leonardo", 13824},
                                         {"alps", 10752},
                                         {"Jean Zay A100", 416},
                                         {"dgx-a100-superpod", 1120},
                                         {"two-p5", 16},
                                         {"dgx-b200-superpod", 1024},
                                         {"dgx-b200-superpod-64su", 16384}};
  for (const auto& [name, gpus] : sizes) {
    CAPTURE(name);
    CHECK(read_platform(folder, name).gpus() == gpus);
  }
}

TEST_CASE("an alias of a GPU, node or cluster stands for one file only") {
  for (const PlatformKind kind : {PlatformKind::gpu, PlatformKind::node, PlatformKind::cluster}) {
    for (const std::string& name : folder.names(kind)) {
      std::vector<std::string> aliases;
      if (kind == PlatformKind::gpu) aliases = folder.gpu(name).aliases;
      if (kind == PlatformKind::node) aliases = folder.node(name).aliases;
      if (kind == PlatformKind::cluster) aliases = folder.cluster(name).aliases;
      const std::string file = folder.find(kind, name);
      for (const std::string& alias : aliases) {
        CAPTURE(name);
        CAPTURE(alias);
        CHECK(folder.find(kind, alias) == file);
      }
    }
  }
}
