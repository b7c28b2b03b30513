#include "platforms/fabric.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "backend/core/error.hpp"
#include "platforms/cluster.hpp"
#include "tests/platforms/own_folder.hpp"
#include "tests/support/near.hpp"

using namespace orrery;

namespace {

Sourced<std::int64_t> count(std::int64_t n) { return Sourced<std::int64_t>(n); }

FabricSpec fat_tree(int levels, int leaf, int pod = 0, double oversubscription = 1) {
  FabricSpec spec;
  spec.levels = count(levels);
  spec.oversubscription = Sourced<double>(oversubscription);
  if (leaf > 0) spec.nodes_per_leaf = count(leaf);
  if (pod > 0) spec.nodes_per_pod = count(pod);
  spec.hop_latency = Sourced<Seconds>(Seconds(1e-7));
  return spec;
}

FabricSpec dragonfly(const char* topology, int leaf, int group, int links) {
  FabricSpec spec = fat_tree(1, leaf);
  spec.topology = topology;
  spec.nodes_per_group = count(group);
  spec.links_per_pair = count(links);
  spec.link_bandwidth = Sourced<BytesPerSecond>(BytesPerSecond(25e9));
  return spec;
}

FabricSpec torus(std::vector<int> dimensions) {
  FabricSpec spec = fat_tree(1, 0);
  spec.topology = "torus";
  for (const int d : dimensions) spec.dimensions.push_back(count(d));
  spec.link_bandwidth = Sourced<BytesPerSecond>(BytesPerSecond(10e9));
  return spec;
}

struct Built {
  Built(const FabricSpec& spec, int nodes, int nics = 1, bool rails = false)
      : fabric(spec, std::nullopt, {""},
               std::vector<Fabric::Node>(static_cast<std::size_t>(nodes),
                                         {0, nics, BytesPerSecond(50e9), rails}),
               links) {}
  int hops(int a, int b, int nic_a = 0, int nic_b = 0) const {
    return fabric.switches({a, nic_a}, {b, nic_b});
  }
  std::vector<std::uint32_t> path(int a, int b, int nic_a = 0, int nic_b = 0) const {
    std::vector<std::uint32_t> out;
    fabric.route({a, nic_a}, {b, nic_b}, out);
    return out;
  }
  std::vector<std::string> names(int a, int b) const {
    std::vector<std::string> out;
    for (const std::uint32_t link : path(a, b)) out.push_back(links.at(link).name);
    return out;
  }
  std::vector<LinkSpec> links;
  Fabric fabric;
};

// DGX A100 nodes (eight GPUs, eight ports of 23 GB/s) on this fabric.
Cluster dgx(const FabricSpec& spec, int nodes) {
  Platform platform = read_platform(folder, "two-dgx-a100");
  platform.cluster.fabric = spec;
  platform.cluster.parts[0].count = count(nodes);
  platform.parts[0].count = nodes;
  return Cluster(platform);
}

// Bytes per second that all GPUs together send to those half of the machine away.
double across_the_middle(const Cluster& c) {
  std::vector<Flow> flows;
  for (int g = 0; g < c.gpus(); ++g)
    flows.push_back({g, (g + c.gpus() / 2) % c.gpus(), Bytes(1'000'000'000)});
  return 1e9 * c.gpus() / transfer_time(c, flows).value;
}

constexpr double port = 25e9 * 0.92;

}  // namespace

TEST_CASE("a fat tree passes 1, 3 or 5 switches by where two nodes meet") {
  const Built two(fat_tree(2, 4), 16);
  CHECK(two.hops(0, 3) == 1);
  CHECK(two.hops(0, 4) == 3);
  const Built three(fat_tree(3, 2, 8), 32);
  CHECK(three.hops(0, 1) == 1);
  CHECK(three.hops(0, 7) == 3);
  CHECK(three.hops(7, 8) == 5);
  // Where nothing is said of leaves, every pair crosses the top.
  CHECK(Built(fat_tree(3, 0), 32).hops(0, 1) == 5);
  CHECK(Built(fat_tree(1, 0), 32).hops(0, 31) == 1);
}

TEST_CASE("rails meet in their own leaf, and other rails above it") {
  const Built rails(fat_tree(2, 4), 8, 8, true);
  CHECK(rails.hops(0, 3, 5, 5) == 1);
  CHECK(rails.hops(0, 3, 5, 6) == 3);
  CHECK(rails.hops(0, 4, 5, 5) == 3);
  const Built plain(fat_tree(2, 4), 8, 8, false);
  CHECK(plain.hops(0, 3, 5, 6) == 1);
}

TEST_CASE("dragonflies pass at most four switches, a torus one more than the links of its way") {
  const Built d(dragonfly("dragonfly", 4, 16, 2), 64);
  CHECK(d.hops(0, 3) == 1);
  CHECK(d.hops(0, 4) == 2);
  CHECK(d.hops(0, 16) == 4);
  const Built plus(dragonfly("dragonfly+", 4, 16, 2), 64);
  CHECK(plus.hops(0, 4) == 3);
  CHECK(plus.hops(0, 16) == 4);
  const Built t(torus({4, 4, 4}), 64);
  CHECK(t.hops(0, 1) == 2);
  CHECK(t.hops(0, 3) == 2);                   // the other way round
  CHECK(t.hops(0, 2 + 4 * 2 + 16 * 2) == 7);  // the farthest
  CHECK(t.path(0, 42).size() == 6);
  CHECK(t.names(0, 3) == std::vector<std::string>{"torus0.0x-"});
  CHECK(t.names(0, 5) == std::vector<std::string>{"torus0.0x+", "torus0.1y+"});
}

TEST_CASE("a full fat tree has no links of its own, an oversubscribed one an up- and a downlink") {
  CHECK(Built(fat_tree(3, 2, 8), 32).links.empty());
  const Built o(fat_tree(3, 2, 8, 4), 32);
  CHECK(o.links.size() == 2 * 4);
  CHECK(o.links[0].bandwidth.value == doctest::Approx(8 * 50e9 / 4));
  CHECK(o.names(0, 7).empty());
  CHECK(o.names(7, 8) == std::vector<std::string>{"pod0.up", "pod1.down"});
  CHECK(o.links[0].tier == LinkTier::pod);
}

TEST_CASE("the bandwidth across the middle is that of the topology") {
  CHECK(across_the_middle(dgx(fat_tree(2, 4), 16)) == doctest::Approx(128 * port));
  CHECK(across_the_middle(dgx(fat_tree(2, 4, 0, 4), 16)) == doctest::Approx(128 * port / 4));
  CHECK(across_the_middle(dgx(fat_tree(3, 2, 8, 7), 16)) == doctest::Approx(128 * port / 7));
  // Four groups of four nodes: a group reaches the others by 3 x 2 links, one of them by 2.
  CHECK(across_the_middle(dgx(dragonfly("dragonfly", 2, 4, 2), 16)) ==
        doctest::Approx(4 * 3 * 2 * 25e9));
  FabricSpec minimal = dragonfly("dragonfly", 2, 4, 2);
  minimal.routing = "minimal";
  CHECK(across_the_middle(dgx(minimal, 16)) == doctest::Approx(4 * 2 * 25e9));
  // A ring of eight nodes: every link upwards carries what four nodes send.
  CHECK(across_the_middle(dgx(torus({8}), 8)) == doctest::Approx(8 * 10e9 / 4));
}

TEST_CASE("two flows that leave one leaf share its uplink, two that leave two do not") {
  const Cluster c = dgx(fat_tree(2, 2, 0, 2), 4);  // two ports below a leaf, one's worth above it
  const auto time = [&](std::vector<Flow> flows) { return transfer_time(c, flows).value; };
  const Bytes size(1'000'000'000);
  const double alone = time({{0, 16, size}});
  CHECK(alone == near(1e9 / port, 1e-6));
  CHECK(time({{0, 16, size}, {8, 24, size}}) == near(2 * alone, 1e-6));
  CHECK(time({{0, 16, size}, {9, 25, size}}) == near(alone, 1e-6));      // another rail
  CHECK(time({{0, 16, size}, {1, 24, size}}) == near(2 * alone, 1e-6));  // one downlink
  CHECK(time({{0, 8, size}, {8, 24, size}}) == near(alone, 1e-6));       // one stays in it
}

TEST_CASE("routes are symmetric and cross no link twice, on every topology") {
  FabricSpec minimal = dragonfly("dragonfly", 4, 16, 2), ecmp = fat_tree(2, 4, 0, 2);
  FabricSpec hashed = dragonfly("dragonfly", 4, 16, 2);
  minimal.routing = "minimal";
  ecmp.routing = hashed.routing = "ecmp";
  for (const FabricSpec& spec :
       {fat_tree(2, 4, 0, 2), fat_tree(3, 2, 8, 3), dragonfly("dragonfly", 4, 16, 2),
        dragonfly("dragonfly+", 4, 16, 2), minimal, torus({4, 4, 4}), ecmp, hashed}) {
    const Built b(spec, 64, 2);
    for (int from = 0; from < 64; ++from)
      for (int to = 0; to < 64; ++to) {
        if (from == to) continue;
        const auto there = b.path(from, to, 0, 1), back = b.path(to, from, 1, 0);
        REQUIRE(there.size() == back.size());
        for (std::size_t i = 0; i < there.size(); ++i)
          REQUIRE(b.links[there[i]].bandwidth == b.links[back[there.size() - 1 - i]].bandwidth);
        REQUIRE(std::set<std::uint32_t>(there.begin(), there.end()).size() == there.size());
        REQUIRE(b.hops(from, to, 0, 1) == b.hops(to, from, 1, 0));
      }
  }
}

TEST_CASE("ecmp puts a flow on one spine and uses all of them") {
  FabricSpec spec = fat_tree(2, 8, 0, 2);
  spec.routing = "ecmp";
  const Built b(spec, 64);  // leaves of 8 ports, with 4 uplinks of 50 GB/s each
  CHECK(b.links.size() == 8 * 4 * 2);
  CHECK(b.links[0].bandwidth.value == doctest::Approx(50e9));
  std::set<std::uint32_t> up;
  for (int to = 8; to < 64; ++to) {
    const auto path = b.path(0, to);
    REQUIRE(path.size() == 2);
    CHECK(path == b.path(0, to));
    up.insert(path[0]);
    const std::string out = b.links[path[0]].name, in = b.links[path[1]].name;
    CHECK(out.back() == in.back());  // the same spine
  }
  CHECK(up.size() == 4);
}

TEST_CASE("ecmp puts a flow on one direct link of a pair of groups, and on one spine of each") {
  FabricSpec spec = dragonfly("dragonfly+", 4, 16, 3);
  spec.routing = "ecmp";
  const Built b(spec, 48);  // leaves of 4 ports below 4 spines; 3 links from each group to each
  std::set<std::string> direct, spines;
  for (int from = 0; from < 16; ++from)
    for (int to = 16; to < 32; ++to) {
      const auto names = b.names(from, to);
      REQUIRE(names.size() == 3);
      CHECK(b.links[b.path(from, to)[1]].bandwidth.value == 25e9);
      direct.insert(names[1]);
      spines.insert(names[0].substr(names[0].find('.')));
    }
  CHECK(direct == std::set<std::string>{"group0.to1.0", "group0.to1.1", "group0.to1.2"});
  CHECK(spines == std::set<std::string>{".up0", ".up1", ".up2", ".up3"});
  // Leaves of one group meet at a spine; the groups' links are not used.
  CHECK(b.names(0, 4).size() == 2);
  // Spread evenly instead, the three are one.
  spec.routing = "minimal";
  const Built even(spec, 48);
  REQUIRE(even.path(0, 16).size() == 1);
  CHECK(even.links[even.path(0, 16)[0]].bandwidth.value == 3 * 25e9);
}

TEST_CASE("a route adds the latency of its switches") {
  const Built b(fat_tree(2, 4), 16);
  CHECK(b.fabric.latency({0, 0}, {5, 0}).value == near(3e-7, 1e-6));
}

TEST_CASE("what a fabric lacks, or has too much of, is refused where it stands") {
  const auto message = [](const std::string& fabric) {
    try {
      read<FabricSpec>(Document::parse_text("source: {kind: assumed}\n" + fabric, "f.yaml"),
                       {Sources::required, UnknownKeys::error});
    } catch (const ConfigError& e) {
      return e.messages.front().text;
    }
    return std::string();
  };
  CHECK(message("levels: 2\nnodes_per_leaf: 4\noversubscription: 2\nhop_latency: 1us") == "");
  CHECK(message("levels: 1\noversubscription: 2").find("a single switch has full bandwidth") !=
        std::string::npos);
  CHECK(message("levels: 3\noversubscription: 2").find("who shares it?") != std::string::npos);
  CHECK(message("topology: dragonfly").find("nodes_per_group: a dragonfly needs it") !=
        std::string::npos);
  CHECK(message("topology: torus\nlink_bandwidth: 1GBps").find("dimensions: a torus needs it") !=
        std::string::npos);
  CHECK(message("dimensions: [2, 2]").find("a fat-tree has none") != std::string::npos);
  CHECK(message("routing: minimal").find("minimal is for dragonflies") != std::string::npos);
  CHECK(message("levels: 3\nnodes_per_leaf: 3\nnodes_per_pod: 8").find("whole leaves") !=
        std::string::npos);
  CHECK_THROWS_AS(Built(torus({2, 2}), 5), Error);
}
