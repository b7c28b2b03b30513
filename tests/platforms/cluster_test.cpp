#include "platforms/cluster.hpp"

#include <doctest/doctest.h>

#include <algorithm>

#include "backend/core/error.hpp"
#include "tests/platforms/own_folder.hpp"
#include "tests/support/near.hpp"

using namespace orrery;

namespace {

std::vector<std::string> names_of(const Cluster& c, int from, int to) {
  std::vector<std::uint32_t> path;
  c.route(from, to, path);
  std::vector<std::string> out;
  for (const std::uint32_t link : path) out.push_back(c.links().at(link).name);
  return out;
}

bool assumes(const Cluster& c, const std::string& path) {
  const auto all = c.assumptions();
  return std::any_of(all.begin(), all.end(), [&](const Assumption& a) { return a.path == path; });
}

}  // namespace

TEST_CASE("a cluster takes the first GPUs of its nodes, up to its size") {
  const Cluster all(read_platform(folder, "two-dgx-a100"));
  CHECK(all.gpus() == 16);
  CHECK(all.node(7) == 0);
  CHECK(all.node(8) == 1);
  CHECK(all.device_memory(15) == Bytes(80'000'000'000));
  const Cluster four(read_platform(folder, "two-dgx-a100"), 4);
  CHECK(four.gpus() == 4);
  CHECK(four.links().size() == 2 * 4 + 2 * 8);
  CHECK(four.peak(Dtype::bf16).value == 4 * 312e12);
  try {
    const Cluster many(read_platform(folder, "two-dgx-a100"), 17);
    FAIL("no error");
  } catch (const Error& e) {
    CHECK(e.category() == Category::config);
    CHECK(e.message() == "17 GPUs asked for, but cluster two-dgx-a100 has 16");
  }
}

TEST_CASE("routes use the scale-up links inside a node and the GPUs' own NICs between nodes") {
  using Names = std::vector<std::string>;
  const Cluster c(read_platform(folder, "two-dgx-a100"));
  CHECK(names_of(c, 1, 6) == Names{"gpu1.scale_up.out", "gpu6.scale_up.in"});
  CHECK(names_of(c, 9, 8) == Names{"gpu9.scale_up.out", "gpu8.scale_up.in"});
  CHECK(names_of(c, 3, 13) == Names{"node0.nic3.out", "node1.nic5.in"});
  CHECK(names_of(c, 2, 2).empty());
  // 8 GPUs share 4 NICs.
  const Cluster shared(read_platform(folder, "two-p4de"));
  CHECK(names_of(shared, 7, 8) == Names{"node0.nic3.out", "node1.nic0.in"});
  CHECK(names_of(shared, 6, 9) == names_of(shared, 7, 8));
}

TEST_CASE("latency and bandwidth of a transfer depend on where its ends are") {
  const Cluster c(read_platform(folder, "two-dgx-a100"));
  CHECK(c.latency(0, 0) == Time{});
  CHECK(c.latency(0, 1) == to_time(Seconds(11.8e-6)));  // 8.4 + 3.4 us
  CHECK(c.latency(0, 8) == to_time(Seconds(8.4e-6 + 14e-6 + 2 * (1.5e-6 + 0.13e-6))));
  CHECK(c.bandwidth(0, 1).value == doctest::Approx(195e9));
  CHECK(c.bandwidth(0, 8).value == doctest::Approx(25e9 * 0.92));
  const CollectivePlan p = c.plan(Collective::send, Bytes(1 << 26), {0, 8});
  CHECK(p.steps == 1);
  CHECK(p.total == c.latency(0, 8) + to_time(Bytes(1 << 26) / c.bandwidth(0, 8)));
}

TEST_CASE("GPUs of one kind share prices, and the host pays the stack's costs") {
  const Cluster c(read_platform(folder, "two-dgx-a100"));
  CHECK(c.kind(0) == c.kind(15));
  const Kernel k = Kernel::gemm(4096, 4096, 4096, Dtype::bf16);
  CHECK(c.kernel_time(k, cost(k), 0).seconds().value == near(552e-6, 0.01));
  CHECK(c.host(0).launch == to_time(Seconds(4e-6)));
}

TEST_CASE("the assumptions are those that the run used") {
  const Cluster c(read_platform(folder, "two-dgx-a100"));
  CHECK(assumes(c, "platform.stack"));  // generic, always
  CHECK(!assumes(c, "nodes/dgx-a100.yaml: nics.achieved"));
  c.plan(Collective::all_reduce, Bytes(1 << 20), {0, 8});
  CHECK(assumes(c, "nodes/dgx-a100.yaml: nics.achieved"));
  CHECK(!assumes(c, "nodes/dgx-a100.yaml: nics.bandwidth"));  // from a datasheet
  CHECK(!assumes(c, "gpus/a100-sxm-80gb.yaml: power.idle"));  // not used
  CHECK(!assumes(c, "stacks/generic.yaml: host.launch"));
  c.host(0);
  CHECK(assumes(c, "stacks/generic.yaml: host.launch"));
  // Used outside what it was measured for: head size 80.
  const Kernel k = Kernel::attention(1, 8, 8, 1024, 80, true, Dtype::bf16);
  c.kernel_time(k, cost(k), 0);
  CHECK(assumes(c, "gpus/a100-sxm-80gb.yaml: compute.attention"));
  CHECK(assumes(c, "gpus/a100-sxm-80gb.yaml: compute.attention[2].forward"));
  const auto all = c.assumptions();
  CHECK(std::is_sorted(all.begin(), all.end(),
                       [](const auto& a, const auto& b) { return a.path < b.path; }));
  for (const Assumption& a : all) {
    CHECK(!a.value.empty());
    CHECK(!a.reason.empty());
  }
}
