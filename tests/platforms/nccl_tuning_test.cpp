#include "platforms/nccl_tuning.hpp"

#include <doctest/doctest.h>

#include "platforms/cluster.hpp"
#include "tests/platforms/own_folder.hpp"

using namespace orrery;

namespace {

constexpr auto all_reduce = Collective::all_reduce;

GroupShape group(int nodes, int per_node) {
  GroupShape g;
  g.members = nodes * per_node;
  g.nodes = nodes;
  g.members_per_node = per_node;
  g.inside_bandwidth = BytesPerSecond(365e9);
  g.between_bandwidth = BytesPerSecond(368e9);
  return g;
}

GroupShape hopper(int nodes, int per_node) {
  GroupShape g = group(nodes, per_node);
  g.generation = GpuGeneration::hopper;
  g.nvls_bandwidth = BytesPerSecond(450e9 * 0.675);
  return g;
}

double us(const GroupShape& g, NcclAlgorithm a, NcclProtocol p, Collective kind = all_reduce) {
  const auto latency = nccl_latency(kind, g, a, p);
  return latency ? latency->value * 1e6 : -1;
}

std::string choice(const GroupShape& g, std::int64_t size, Collective kind = all_reduce) {
  return collective_plan(kind, Bytes(size), g, nullptr).algorithm;
}

}  // namespace

TEST_CASE("latencies on eight GPUs of one NVLink node are those of NCCL's tuner") {
  using enum NcclAlgorithm;
  using enum NcclProtocol;
  const GroupShape g = hopper(1, 8);
  CHECK(us(g, ring, ll) == doctest::Approx(15.0));
  CHECK(us(g, ring, ll128) == doctest::Approx(40.6));
  CHECK(us(g, ring, simple) == doctest::Approx(56.0));
  CHECK(us(g, tree, ll) == doctest::Approx(15.2));
  CHECK(us(g, tree, ll128) == doctest::Approx(31.5));
  CHECK(us(g, tree, simple) == doctest::Approx(64.4));
  CHECK(us(g, nvls, simple) == doctest::Approx(25));
}

TEST_CASE("latencies on eight nodes of eight GPUs are those of NCCL's tuner") {
  using enum NcclAlgorithm;
  using enum NcclProtocol;
  const GroupShape g = hopper(8, 8);
  CHECK(us(g, ring, simple) == doctest::Approx(585.2));
  CHECK(us(g, tree, ll) == doctest::Approx(45.2));
  CHECK(us(g, tree, simple) == doctest::Approx(148.4));
  CHECK(us(g, nvls_tree, simple) == doctest::Approx(25 + 2 * 3 * 20.9));
  // Inside a node NCCL adds at least 1 us of network overhead to each step: 6.6 + 112 + 14 x 2.7.
  CHECK(us(g, ring, ll) == doctest::Approx(156.4));
  // The port's latency counts at every crossing, twice for Simple.
  GroupShape far = g;
  far.network_latency = Seconds(1e-6);
  CHECK(us(far, tree, ll) == doctest::Approx(45.2 + 6));
  CHECK(us(far, tree, simple) == doctest::Approx(148.4 + 12));
}

TEST_CASE("forms that NCCL does not have are not there") {
  using enum NcclAlgorithm;
  using enum NcclProtocol;
  const GroupShape one = hopper(1, 8), many = hopper(8, 8), spread = group(16, 1);
  CHECK(us(one, nvls, ll) == -1);
  CHECK(us(one, nvls, simple, Collective::all_gather) == -1);
  CHECK(us(one, tree, ll, Collective::all_gather) == -1);
  CHECK(us(one, nvls_tree, simple) == -1);
  CHECK(us(many, nvls, simple) == -1);  // would need reductions in the network
  CHECK(us(group(1, 8), nvls, simple) == -1);
  CHECK(us(many, pat, simple, Collective::all_gather) == -1);
  CHECK(us(spread, pat, simple) == -1);
  // 8 + 4 x 14 / 3.5 + 2.8 x 16
  CHECK(us(spread, pat, simple, Collective::all_gather) == doctest::Approx(68.8));
  GroupShape pcie = group(1, 4);
  pcie.inside = Inside::pcie;
  CHECK(us(pcie, ring, ll128) == -1);
}

TEST_CASE("on eight H200 an all-reduce changes from LL to NVLS between 1 and 2 MiB") {
  // As stas00/ml-engineering network/benchmarks/README.md observed.
  const GroupShape g = hopper(1, 8);
  CHECK(choice(g, 1 << 20) == "ring LL");
  CHECK(choice(g, 2 << 20) == "NVLS");
  CHECK(choice(g, 1LL << 34) == "NVLS");
  // 15 us + 1 MiB / (141 GB/s x 8/14) = 28.0 us: LL pays no ramp.
  const auto t = collective_plan(all_reduce, Bytes(1 << 20), g, nullptr).total;
  CHECK(t.seconds().value * 1e6 == doctest::Approx(28.01).epsilon(1e-3));
}

TEST_CASE("H200 reduce in their switch from five GPUs on, four are faster in a ring") {
  // As observed there: NVLS from 5 GPUs on.
  for (int n = 2; n <= 8; ++n) {
    CAPTURE(n);
    CHECK(choice(hopper(1, n), 1LL << 33) == (n >= 5 ? "NVLS" : "ring"));
  }
}

TEST_CASE("the bus bandwidth of large all-reduces on eight H200 is the published one") {
  // Ring 365.6 GB/s, NVLS 473 to 480 at 8 to 16 GiB.
  const Cluster c(read_platform(folder, "one-dgx-h200"));
  const Bytes size(16LL << 30);
  const auto bus = [&](Collective kind, double f) {
    return f * static_cast<double>(size.value) / c.plan(kind, size, first(8)).total.seconds().value;
  };
  CHECK(bus(Collective::all_reduce, 1.75) / 1e9 == doctest::Approx(475).epsilon(0.03));
  CHECK(bus(Collective::all_gather, 0.875) / 1e9 == doctest::Approx(361).epsilon(0.05));
  CHECK(bus(Collective::reduce_scatter, 0.875) / 1e9 == doctest::Approx(363).epsilon(0.05));
  // Six of them have no curve of their own: NVLS, 304 GB/s x 6/7 = 260 GB/s of the buffer.
  const CollectivePlan six = c.plan(Collective::all_reduce, size, first(6));
  CHECK(std::string(six.algorithm) == "NVLS");
  CHECK(static_cast<double>(size.value) / six.total.seconds().value / 1e9 ==
        doctest::Approx(260).epsilon(0.05));
}

TEST_CASE("small all-reduces over many nodes take the tree, gathers of single GPUs PAT") {
  CHECK(choice(hopper(64, 8), 1 << 14) == "tree LL");
  CHECK(choice(group(64, 1), 1 << 16, Collective::all_gather) == "PAT");
  CHECK(choice(group(64, 1), 1LL << 32, Collective::all_gather) == "ring");
  CHECK(choice(hopper(2, 8), 1LL << 32) == "NVLS tree");
}

TEST_CASE("LL is limited by generation and number of nodes") {
  CHECK(ll_limit(GpuGeneration::volta, 1).value == 39e9);
  CHECK(ll_limit(GpuGeneration::ampere, 2).value == 22.5e9);
  CHECK(ll_limit(GpuGeneration::hopper, 1).value == 141e9);
  CHECK(ll_limit(GpuGeneration::blackwell, 100).value == 70e9);
}
