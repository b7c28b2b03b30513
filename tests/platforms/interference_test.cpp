// What communications take of a cluster's GPUs, and kernels on what is left.
#include <doctest/doctest.h>

#include "platforms/cluster.hpp"
#include "platforms/kernel_time.hpp"
#include "tests/support/near.hpp"

namespace orrery {
namespace {

Cluster cluster_of(const char* stack) {
  return Cluster(read_platform(PlatformFolder(ORRERY_SOURCE_DIR), "two-dgx-a100", stack));
}

const std::vector<int> a_node{0, 1, 2, 3, 4, 5, 6, 7}, two_nodes{0, 8};

TEST_CASE("collectives keep a multiprocessor a channel: more inside a node than over the network") {
  const Cluster& cluster = cluster_of("generic-interference");
  CHECK(cluster.interferes());
  CHECK(!cluster_of("generic").interferes());
  CHECK(cluster.waiting(Collective::all_reduce, a_node) == Taken{24, 0, 0});
  CHECK(cluster.waiting(Collective::all_gather, two_nodes) == Taken{16, 0, 0});
  CHECK(cluster.waiting(Collective::send, two_nodes) == Taken{2, 0, 0});
  // 3 bytes through memory per byte sent, 2 where nothing is added up.
  const Time second(1'000'000'000'000);
  CHECK(cluster.transferring(Collective::reduce_scatter, Bytes(1'000), second) ==
        Taken{0, 1, 3'000});
  CHECK(cluster.transferring(Collective::all_gather, Bytes(1'000), second) == Taken{0, 1, 2'000});
  // Of one way the sender only reads, the receiver only writes.
  for (const Collective one_way : {Collective::send, Collective::receive})
    CHECK(cluster.transferring(one_way, Bytes(1'000), second) == Taken{0, 1, 1'000});
  CHECK(cluster.transferring(Collective::exchange, Bytes(1'000), second) == Taken{0, 1, 2'000});
  CHECK(cluster.transferring(Collective::all_gather, Bytes(0), Time{}) == Taken{});
}

TEST_CASE("a product beside a collective is one on the multiprocessors that are left") {
  const Cluster& cluster = cluster_of("generic-interference");
  GpuSpec left = cluster.gpu(0);
  left.compute.sm.value -= 24;
  left.compute.peak.bf16->value = left.compute.peak.bf16->value * (84.0 / 108.0);
  const Kernel product = Kernel::gemm(8192, 8192, 8192, Dtype::bf16);
  const Time beside = cluster.kernel_time_beside(product, cost(product), 0, {24, 0, 0});
  CHECK(beside == to_time(kernel_time(product, cost(product), left, cluster.platform().stack)));
  CHECK(beside > cluster.kernel_time(product, cost(product), 0));
}

TEST_CASE("a kernel of the memory has the bandwidth that transfers leave, a fair share at least") {
  const Cluster& cluster = cluster_of("generic-interference");
  const Kernel fill = Kernel::fill(500'000'000, 0, Dtype::bf16);  // 1 GB
  const GpuSpec& gpu = cluster.gpu(0);
  const double achieved = gpu.memory.bandwidth.value.value * gpu.memory.achieved.value;
  const double launch = gpu.compute.gemm.launch.value.value;
  const auto seconds = [&](const Taken& taken) {
    return cluster.kernel_time_beside(fill, cost(fill), 0, taken).seconds().value - launch;
  };
  const double alone = seconds({});
  CHECK(alone > 0);
  CHECK(seconds({24, 1, 500'000'000'000}) == near(alone * achieved / (achieved - 500e9), 1e-6));
  CHECK(seconds({24, 1, 5'000'000'000'000}) == near(2 * alone, 1e-6));
  CHECK(seconds({48, 2, 9'000'000'000'000}) == near(3 * alone, 1e-6));
}

}  // namespace
}  // namespace orrery
