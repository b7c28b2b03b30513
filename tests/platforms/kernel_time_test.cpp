#include "platforms/kernel_time.hpp"

#include <doctest/doctest.h>

#include "backend/core/error.hpp"
#include "tests/platforms/own_folder.hpp"
#include "tests/support/near.hpp"

using namespace orrery;

namespace {

// 4 multiprocessors, peak 1e12, efficiency 0.5, edge 64, launch 1 us, 1e9 B/s.
const GemmConstants simple{FlopsPerSecond(1e12), 0.5, 64, 4, Seconds(1e-6), BytesPerSecond(1e9)};

double share_of_peak(const GpuSpec& gpu, std::int64_t n) {
  const Kernel k = Kernel::gemm(n, n, n, Dtype::bf16);
  const StackSpec stack = folder.stack("generic");
  const Seconds t = kernel_time(k, cost(k), gpu, stack);
  return cost(k).matrix.value / t.value / gpu.peak(Dtype::bf16).value.value;
}

}  // namespace

TEST_CASE("the GEMM formula gives the hand-computed time") {
  // 256 x 512 x 1024: 4 tiles fill one wave of 4: work = 2 m n k = 2^28; edges
  // (1.25)(1.125)(1.0625).
  const double work = 268435456.0 * 1.25 * 1.125 * 1.0625;
  CHECK(gemm_time(256, 512, 1024, Bytes(0), simple).value == 1e-6 + work / 5e11);
  // 384 x 512 x 1024: 6 tiles take 2 waves of 4: half of 6 tiles and half of 8.
  const double tile = 2.0 * 128 * 256 * 1024;
  const double half = (0.5 * 6 * tile + 0.5 * 8 * tile) * (1 + 64.0 / 384) * 1.125 * 1.0625;
  CHECK(gemm_time(384, 512, 1024, Bytes(0), simple).value ==
        doctest::Approx(1e-6 + half / 5e11).epsilon(1e-15));
  // Bound by memory.
  CHECK(gemm_time(256, 512, 1024, Bytes(2'000'000), simple).value == 1e-6 + 2e-3);
  // Nothing to do.
  CHECK(gemm_time(0, 512, 1024, Bytes(0), simple).value == 1e-6);
}

TEST_CASE("a product takes no longer than one with longer sides, which could be computed for it") {
  for (const char* name : {"a100-sxm-80gb", "h100-sxm"}) {
    const GemmConstants c = gemm_constants(folder.gpu(name), Dtype::bf16);
    const auto time = [&c](std::int64_t m, std::int64_t n, std::int64_t k) {
      return gemm_time(m, n, k, Bytes(0), c).value;
    };
    for (std::int64_t m = 1; m <= 4096; m *= 2)
      for (std::int64_t n = 1; n <= 4096; n *= 2)
        for (const std::int64_t k : {1, 64, 4096}) {
          CHECK(time(m, n, k) <= time(2 * m, n, k));
          CHECK(time(m, n, k) <= time(m, 2 * n, k));
          CHECK(time(m, n, k) <= time(m, n, 2 * k));
        }
  }
}

TEST_CASE("few tiles share the multiprocessors along the inner dimension, and then add up") {
  // One tile of 128 x 256: four parts of it are a whole wave. Each part is written, then read.
  constexpr std::int64_t k = 1 << 20;
  const double work = 2.0 * 128 * 256 * k * 1.5 * 1.25 * (1 + 64.0 * 4 / k);
  const double sums = 4 * 4.0 * 128 * 256 / 1e9;
  CHECK(gemm_time(128, 256, k, Bytes(0), simple).value ==
        doctest::Approx(2e-6 + work / 5e11 + sums).epsilon(1e-15));
  // Beside half a second of operands the sums of two parts are written, then read.
  CHECK(gemm_time(128, 256, k, Bytes(500'000'000), simple).value ==
        doctest::Approx(2e-6 + 0.5 + 2 * sums / 2).epsilon(1e-15));
  // Sums in fp64 are twice as long.
  GemmConstants wide = simple;
  wide.sum = Bytes(8);
  CHECK(gemm_time(128, 256, k, Bytes(0), wide).value ==
        doctest::Approx(2e-6 + work / 5e11 + 2 * sums).epsilon(1e-15));
  CHECK(gemm_constants(folder.gpu("a100-sxm-80gb"), Dtype::fp64).sum == Bytes(8));
  CHECK(gemm_constants(folder.gpu("a100-sxm-80gb"), Dtype::bf16).sum == Bytes(4));
  // Three tiles leave no room for a second part of each.
  GemmConstants never = simple;
  never.sum = Bytes(std::int64_t{1} << 50);
  CHECK(gemm_time(384, 256, k, Bytes(0), simple) == gemm_time(384, 256, k, Bytes(0), never));
}

TEST_CASE("splitting the inner dimension never makes a product slower") {
  for (const char* name : {"a100-sxm-80gb", "h100-sxm", "cpu-core"}) {
    const GemmConstants c = gemm_constants(folder.gpu(name), Dtype::fp32);
    GemmConstants never = c;
    never.sum = Bytes(std::int64_t{1} << 50);
    int faster = 0, alike = 0;
    for (std::int64_t m = 16; m <= 8192; m *= 8)
      for (std::int64_t n = 16; n <= 8192; n *= 8)
        for (std::int64_t k = 1; k <= 1 << 22; k *= 4) {
          const double split = gemm_time(m, n, k, Bytes(4 * (m * k + k * n + m * n)), c).value;
          const double whole = gemm_time(m, n, k, Bytes(4 * (m * k + k * n + m * n)), never).value;
          CHECK(split <= whole);
          split < whole ? ++faster : ++alike;
        }
    CHECK((faster > 0) == (c.sm > 1));
    CHECK(alike > 0);
  }
}

TEST_CASE("a product takes longer the longer its inner dimension is, split or not") {
  const GemmConstants c = gemm_constants(folder.gpu("a100-sxm-80gb"), Dtype::bf16);
  for (const std::int64_t m : {16, 64, 500, 2048})
    for (const std::int64_t n : {64, 576, 4096}) {
      double before = 0;
      for (std::int64_t k = 1; k < 1 << 24; k += 1 + k / 7) {
        const double t = gemm_time(m, n, k, Bytes(2 * (m * k + k * n + m * n)), c).value;
        CHECK(t >= before);
        before = t;
      }
    }
}

TEST_CASE("few tiles of a long product use all multiprocessors, as weight gradients need") {
  const GpuSpec gpu = folder.gpu("a100-sxm-80gb");
  const GemmConstants c = gemm_constants(gpu, Dtype::fp32);
  struct Shape {
    std::int64_t m, n, k, tiles;
  };
  // The weight gradients of RevNet-18 for 64 pictures of 32 x 32, in its first and second group;
  // one tile; 16 tiles.
  for (const Shape& s : {Shape{64, 64 * 9, 64 * 32 * 32, 3}, Shape{128, 128 * 9, 64 * 16 * 16, 5},
                         Shape{128, 256, 1 << 20, 1}, Shape{512, 1024, 1 << 18, 16}}) {
    CAPTURE(s.m);
    const auto parts = static_cast<double>(c.sm / s.tiles);
    // A device of the same peak with as many multiprocessors as tiles has no idle ones: half of the
    // time is that of its tiles, and grows with those that parts leave idle here.
    GemmConstants full = c;
    full.sm = s.tiles;
    const double ideal = gemm_time(s.m, s.n, s.k, Bytes(0), full).value - c.launch.value;
    const double idle = static_cast<double>(c.sm) / (parts * static_cast<double>(s.tiles));
    const double shorter = 1 + c.edge * parts / static_cast<double>(s.k);
    const double sums = parts * 4 * static_cast<double>(s.m * s.n) / c.memory.value;
    const double t = gemm_time(s.m, s.n, s.k, Bytes(0), c).value;
    CHECK(t <= ideal * idle * shorter + sums + 2 * c.launch.value);
    // Without parts all but its tiles would idle.
    GemmConstants never = c;
    never.sum = Bytes(std::int64_t{1} << 50);
    CHECK(t < 0.3 * gemm_time(s.m, s.n, s.k, Bytes(0), never).value);
  }
  // A product that fills a wave and a half of its parts' bytes: bound by memory. 16 rows against a
  // weight of 8192 x 8192 take what reading it takes, and not twice that.
  const Kernel thin = Kernel::gemm(16, 8192, 8192, Dtype::bf16);
  const double reading = 2.0 * 8192 * 8192 / (2.039e12 * 0.8);
  CHECK(kernel_time(thin, cost(thin), gpu, folder.stack("generic")).value < 2 * reading);
}

TEST_CASE("grouped products of a rank that has twice the mean to do take twice as long") {
  const GpuSpec gpu = folder.gpu("h100-sxm");
  const StackSpec stack = folder.stack("generic");
  Kernel kernel = Kernel::grouped_gemm(4, 4096, 4096, 4096, Dtype::bf16);
  const auto time = [&](double load) {
    kernel.scalars[grouped_load] = load;
    return kernel_time(kernel, cost(kernel), gpu, stack).value;
  };
  const double even = time(1), launch = time(1) - (time(3) - time(2));
  CHECK(time(0) == even);
  CHECK(time(2) - launch == near(2 * (even - launch), 1e-6));
  CHECK(time(2) > 1.9 * even);
}

TEST_CASE("attention without a fused kernel computes all scores and moves them through memory") {
  const GpuSpec gpu = folder.gpu("a100-sxm-80gb");
  StackSpec stack = folder.stack("generic");
  stack.unfused_attention = {Sourced<double>(0.45), Sourced<Bytes>(Bytes(15))};
  const double scores = 2.0 * 32 * 4096 * 4096;
  const double products = 4 * scores * 128 / (312e12 * 0.45);
  const double softmax =
      15 * scores / (gpu.memory.bandwidth.value.value * gpu.memory.achieved.value);
  const Kernel causal = Kernel::attention(2, 32, 8, 4096, 128, true, Dtype::bf16);
  CHECK(kernel_time(causal, cost(causal), gpu, stack).value ==
        doctest::Approx(4e-6 + products + softmax).epsilon(1e-12));
  const Kernel back = Kernel::attention_backward(2, 32, 8, 4096, 128, true, Dtype::bf16);
  CHECK(kernel_time(back, cost(back), gpu, stack).value ==
        doctest::Approx(4e-6 + 2 * products + softmax).epsilon(1e-12));
}

TEST_CASE("waves: 4096 x 4096 takes 5 waves on A100 and 4 on H100") {
  // Tiles of 128 x 256: 512. 5 * 108 = 540 and 4 * 132 = 528 places, so 94.8 % and 97.0 % are
  // filled.
  const auto filled = [](const GpuSpec& gpu) {
    GemmConstants c = gemm_constants(gpu, Dtype::bf16);
    c.edge = 0;
    c.launch = Seconds(0);
    const double t = gemm_time(4096, 4096, 4096, Bytes(0), c).value;
    const double ideal = 2.0 * 4096 * 4096 * 4096 / (c.peak.value * c.efficiency);
    return 1.0 / (2.0 * t / ideal - 1.0);
  };
  CHECK(filled(folder.gpu("a100-sxm-80gb")) == doctest::Approx(512.0 / 540).epsilon(1e-12));
  CHECK(filled(folder.gpu("h100-sxm")) == doctest::Approx(512.0 / 528).epsilon(1e-12));
}

TEST_CASE("4096^3 runs at the share of the peak that kernel tables give") {
  const double a100 = share_of_peak(folder.gpu("a100-sxm-80gb"), 4096);
  CHECK(a100 > 0.74);
  CHECK(a100 < 0.82);
  const double h100 = share_of_peak(folder.gpu("h100-sxm"), 4096);
  CHECK(h100 > 0.62);
  CHECK(h100 < 0.76);
  CHECK(share_of_peak(folder.gpu("a100-sxm-80gb"), 16384) > a100);
}

TEST_CASE("attention counts causal FLOPs at the table's share of the peak") {
  const GpuSpec gpu = folder.gpu("a100-sxm-80gb");
  const StackSpec stack = folder.stack("generic");
  const Kernel causal = Kernel::attention(2, 32, 8, 4096, 128, true, Dtype::bf16);
  const double flops = 4.0 * 2 * 32 * 4096.0 * 4096 * 128 / 2;
  CHECK(kernel_time(causal, cost(causal), gpu, stack).value ==
        doctest::Approx(4e-6 + flops / (312e12 * 0.5)).epsilon(1e-12));
  const Kernel back = Kernel::attention_backward(2, 32, 8, 4096, 128, true, Dtype::bf16);
  CHECK(kernel_time(back, cost(back), gpu, stack).value ==
        doctest::Approx(4e-6 + 2.5 * flops / (312e12 * 0.45)).epsilon(1e-12));
  CHECK(attention_row(gpu, "flash-2", 64).head.value == 64);
  CHECK(attention_row(gpu, "flash-2", 96).head.value == 64);
  CHECK(attention_row(gpu, "flash-2", 160).head.value == 128);
  CHECK_THROWS_AS(attention_row(gpu, "flash-9", 64), Error);
}

TEST_CASE("memory-bound kernels take bytes over the achieved bandwidth") {
  const GpuSpec gpu = folder.gpu("a100-sxm-80gb");
  StackSpec stack = folder.stack("generic");
  stack.elementwise.value = 2;
  const double rate = 2.039e12 * 0.8;
  const Kernel norm =
      Kernel::streaming("norm", 1 << 24, 1 << 24, Dtype::bf16, {Role::read, Role::write});
  CHECK(kernel_time(norm, cost(norm), gpu, stack).value ==
        doctest::Approx(4e-6 + 2 * 4.0 * (1 << 24) / rate).epsilon(1e-12));
  // The optimizer is one fused kernel in every stack: 28 bytes per parameter and gradient of 16
  // bits.
  const Kernel adam = Kernel::adamw(1 << 26, 1e-3, 0.9, 0.95, 1e-8, 0.1, Dtype::bf16, Dtype::bf16);
  CHECK(kernel_time(adam, cost(adam), gpu, stack).value ==
        doctest::Approx(4e-6 + 28.0 * (1 << 26) / rate).epsilon(1e-12));
  const Kernel loss = Kernel::cross_entropy(1024, 32000, 1, Dtype::bf16);
  stack.loss_bytes_per_logit.value = Bytes(100);
  CHECK(kernel_time(loss, cost(loss), gpu, stack).value ==
        doctest::Approx(4e-6 + 100.0 * 1024 * 32000 / rate).epsilon(1e-12));
}

TEST_CASE("a copy between a GPU and its host takes its bytes over the rate of their link") {
  GpuSpec gpu = folder.gpu("a100-sxm-80gb");
  const StackSpec stack = folder.stack("generic");
  const Kernel copy = Kernel::host_copy(1 << 24, Dtype::fp32);
  const double bytes = 4.0 * (1 << 24), launch = gpu.compute.gemm.launch.value.value;
  REQUIRE(gpu.link.host);
  CHECK(kernel_time(copy, cost(copy), gpu, stack).value ==
        doctest::Approx(launch + bytes / gpu.link.host->bandwidth_per_direction.value.value)
            .epsilon(1e-12));
  gpu.link.host.reset();  // then as fast as its memory is read
  CHECK(kernel_time(copy, cost(copy), gpu, stack).value ==
        doctest::Approx(launch + bytes / (2.039e12 * 0.8)).epsilon(1e-12));
}

TEST_CASE("timed and custom kernels take their stated duration") {
  const GpuSpec gpu = folder.gpu("a100-sxm-80gb");
  const StackSpec stack = folder.stack("generic");
  const Kernel timed = Kernel::timed("t", Seconds(0.25));
  CHECK(kernel_time(timed, cost(timed), gpu, stack).value == 0.25);
  const Kernel custom = Kernel::custom("c", {}, {}, Flops(0), Bytes(0), Seconds(0.5));
  CHECK(kernel_time(custom, cost(custom), gpu, stack).value == 0.5);
}

TEST_CASE("a type without a peak is refused by name") {
  const GpuSpec gpu = folder.gpu("a100-sxm-80gb");
  try {
    gpu.peak(Dtype::fp8);
    FAIL("no error");
  } catch (const Error& e) {
    CHECK(e.category() == Category::config);
    CHECK(e.message() == "a100-sxm-80gb has no peak for fp8: it cannot compute with it");
  }
}
