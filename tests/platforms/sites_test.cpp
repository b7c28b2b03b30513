// Groups whose members are not alike: several sites, several kinds of GPUs and ports, sockets.
#include <doctest/doctest.h>

#include <algorithm>

#include "platforms/cluster.hpp"
#include "tests/platforms/own_folder.hpp"
#include "tests/support/near.hpp"

using namespace orrery;

namespace {

double seconds(Time t) { return t.seconds().value; }

}  // namespace

TEST_CASE("a lossy path carries what Mathis' equation says per TCP connection") {
  // 1460 bytes in 40 ms, times sqrt(1.5 / 0.0001).
  CHECK(tcp_rate(Seconds(0.02), 1e-4, 1).value == doctest::Approx(4.4703e6).epsilon(1e-4));
  CHECK(tcp_rate(Seconds(0.02), 1e-4, 8).value ==
        doctest::Approx(8 * tcp_rate(Seconds(0.02), 1e-4, 1).value));
  CHECK(tcp_rate(Seconds(0.02), 4e-4, 1).value ==
        doctest::Approx(tcp_rate(Seconds(0.02), 1e-4, 1).value / 2));
}

TEST_CASE("an all-reduce over two sites is reduced inside, crosses once, and is gathered inside") {
  const Cluster c(read_platform(folder, "two-sites-h100"));
  const Bytes size(8LL << 30);
  const CollectivePlan p = c.plan(Collective::all_reduce, size, first(64));
  CHECK(std::string(p.algorithm) == "hierarchical");
  // The sites are alike. Each sends S/2 + S/2 over its access of 50 GB/s, in two steps.
  const double inside = seconds(c.plan(Collective::reduce_scatter, size, first(32)).total) +
                        seconds(c.plan(Collective::all_gather, size, first(32)).total);
  const double wan = 2 * seconds(c.latency(0, 32)) + static_cast<double>(size.value) / 50e9;
  CHECK(seconds(p.total) == near(inside + wan, 1e-6));
  CHECK(seconds(c.latency(0, 32)) > 1e-3);
  // A group inside one site does not know of the other.
  const CollectivePlan local = c.plan(Collective::all_reduce, size, first(32));
  CHECK(std::string(local.algorithm) != "hierarchical");
}

TEST_CASE("the flows over a WAN move what the plan says, and take what it takes") {
  const Cluster c(read_platform(folder, "two-sites-h100"));
  const Bytes size(8LL << 30);
  std::int64_t crossing = 0;
  for (const Flow& f : c.flows(Collective::all_reduce, size, first(64)))
    if (c.site(f.from) == 0 && c.site(f.to) == 1) crossing += f.size.value;
  CHECK(crossing == size.value);
}

TEST_CASE("each site of the federation has its own line, and pairs their own latency") {
  const Cluster c(read_platform(folder, "federation-4090"));
  CHECK(c.gpus() == 64);
  CHECK(c.site(15) == 0);
  CHECK(c.site(16) == 1);
  CHECK(seconds(c.latency(0, 16)) == near(5e-3, 0.05));
  CHECK(seconds(c.latency(0, 48)) == near(110e-3, 0.01));
  CHECK(c.latency(0, 48) == c.latency(48, 0));
  // 8 connections over 80 ms of round trip with a loss of 1e-4 reach 18 MB/s of the line's 125.
  CHECK(c.bandwidth(0, 32).value == doctest::Approx(tcp_rate(Seconds(0.04), 1e-4, 8).value));
  CHECK(c.bandwidth(0, 16).value == doctest::Approx(125e6));
}

TEST_CASE("a ring of mixed nodes goes at the rate of the slowest port, a part of it at its own") {
  const Cluster c(read_platform(folder, "two-a100-two-h100"));
  const Bytes size(8LL << 30);
  const auto gather = [&](const std::vector<int>& members) {
    return seconds(c.plan(Collective::all_gather, size, members).total);
  };
  const double a = 25e9 * 0.92, h = 50e9 * 0.92;
  CHECK(c.bandwidth(0, 8).value == doctest::Approx(a));
  CHECK(c.bandwidth(16, 24).value == doctest::Approx(h));
  CHECK(c.bandwidth(0, 16).value == doctest::Approx(a));
  const double s = static_cast<double>(size.value) / 2;
  CHECK(gather({0, 8}) == near(s / a, 0.15));
  CHECK(gather({16, 24}) == near(s / h, 0.25));
  CHECK(gather({0, 16}) >= gather({0, 8}) * 0.999);
  CHECK(c.kind(0) != c.kind(16));
  CHECK(c.peak(Dtype::bf16).value == doctest::Approx(16 * 312e12 + 16 * 989.5e12));
}

TEST_CASE("rings over several nodes use every port once, and keep to the rails") {
  const Cluster c(read_platform(folder, "four-dgx-a100"));
  const auto rings = c.rings(first(32));
  REQUIRE(rings.size() == 8);
  std::vector<int> out(32, 0), in(32, 0);
  for (const auto& ring : rings) {
    std::vector<int> sorted = ring;
    std::sort(sorted.begin(), sorted.end());
    CHECK(sorted == first(32));
    for (std::size_t i = 0; i < ring.size(); ++i) {
      const int from = ring[i], to = ring[(i + 1) % ring.size()];
      if (c.node(from) == c.node(to)) continue;
      ++out[static_cast<std::size_t>(from)];
      ++in[static_cast<std::size_t>(to)];
      CHECK(from % 8 == to % 8);
    }
  }
  CHECK(out == std::vector<int>(32, 1));
  CHECK(in == std::vector<int>(32, 1));
  // Four ports for eight GPUs: four rings.
  CHECK(Cluster(read_platform(folder, "two-p4de")).rings(first(16)).size() == 4);
  CHECK(c.rings({0, 3, 5}).size() == 1);
}

TEST_CASE("transfers between sockets share the link between them") {
  const Cluster c(read_platform(folder, "federation-4090"), 4);
  std::vector<std::uint32_t> path;
  c.route(0, 1, path);
  CHECK(path.size() == 2);
  c.route(1, 2, path);
  REQUIRE(path.size() == 4);
  CHECK(c.links()[path[1]].name == "node0.socket0.out");
  CHECK(c.links()[path[2]].name == "node0.socket1.in");
  CHECK(c.links()[path[1]].tier == LinkTier::numa);
  // Both GPUs of a socket send to the other at once.
  const Bytes size(1'000'000'000);
  const std::vector<Flow> flows{{0, 2, size}, {1, 3, size}};
  CHECK(transfer_time(c, flows).value == doctest::Approx(2 * 1e9 / 20e9));
}

TEST_CASE("an oversubscribed fabric slows an all-to-all, not the ring of neighbours") {
  Platform platform = read_platform(folder, "four-dgx-a100");
  platform.cluster.fabric.levels = Sourced<std::int64_t>(2);
  platform.cluster.fabric.nodes_per_leaf = Sourced<std::int64_t>(2);
  const Cluster full(platform);
  platform.cluster.fabric.oversubscription = Sourced<double>(8);
  const Cluster narrow(platform);
  const Bytes size(8LL << 30);
  const auto time = [&](const Cluster& c, Collective kind) {
    return seconds(c.plan(kind, size, first(32)).total);
  };
  // On a leaf of two ports of one rail, each sends to 23 GPUs that are not on it nor in its node,
  // over an eighth of their bandwidth.
  const double leaf = static_cast<double>(size.value) / 32 * 2 * 23 / (2 * 23e9 / 8);
  CHECK(time(narrow, Collective::all_to_all) > leaf);
  CHECK(time(narrow, Collective::all_to_all) < leaf * 1.15);
  CHECK(time(full, Collective::all_to_all) < leaf / 2);
  CHECK(time(narrow, Collective::all_gather) > time(full, Collective::all_gather) * 1.5);
}
