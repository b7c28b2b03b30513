// Platform files as SimGrid itself reads them: what we read of them, and what we write.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <simgrid/s4u.hpp>

#include "backend/core/text.hpp"
#include "platforms/cluster.hpp"
#include "platforms/simgrid_network.hpp"
#include "sim/simgrid/versions.hpp"
#include "tests/support/near.hpp"

using namespace orrery;
namespace s4u = simgrid::s4u;

namespace {

// Has SimGrid load it; engines are never destroyed.
s4u::Engine* load(const std::string& text) {
  static std::vector<std::string> arguments{"test",
                                            "--log=root.thres:critical",
                                            "--cfg=network/model:CM02",
                                            "--cfg=network/crosstraffic:0",
                                            "--cfg=network/TCP-gamma:1e30",
                                            "--cfg=surf/precision:1e-12"};
  static std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  int argc = static_cast<int>(argv.size());
  auto* engine = new s4u::Engine(&argc, argv.data());
  const std::string file = (std::filesystem::temp_directory_path() /
                            ("orrery_platform_" + std::to_string(::getpid()) + ".xml"))
                               .string();
  write_file_atomically(file, text);
  engine->load_platform(file);
  engine->seal_platform();
  std::filesystem::remove(file);
  return engine;
}

struct Way {
  std::vector<std::string> links;
  double latency = 0;
  double slowest = HUGE_VAL;
};
Way way_of(const s4u::Host* from, const s4u::Host* to) {
  std::vector<s4u::Link*> links;
  Way way;
  from->route_to(to, links, &way.latency);
  for (const s4u::Link* link : links) {
    way.links.push_back(link->get_name());
    way.slowest = std::min(way.slowest, link->get_bandwidth());
  }
  return way;
}

// Zones of every kind that is read, within one another.
const char* const everything = R"(<?xml version='1.0'?>
<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">
<platform version="4.1">
  <zone id="world" routing="Full">
    <zone id="west" routing="Full">
      <zone id="rack" routing="Full">
        <host id="a" speed="1Gf"/> <host id="b" speed="1Gf"/>
        <router id="rack-gate"/>
        <link id="la" bandwidth="10GBps" latency="1us" sharing_policy="SPLITDUPLEX"/>
        <link id="lb" bandwidth="20Gbps" latency="2us"/>
        <link id="lg" bandwidth="5GBps" latency="500ns"/>
        <link id="loop" bandwidth="1GBps" latency="1us" sharing_policy="FATPIPE"/>
        <route src="a" dst="a"><link_ctn id="loop"/></route>
        <route src="a" dst="b"><link_ctn id="la" direction="UP"/><link_ctn id="lb"/></route>
        <route src="a" dst="rack-gate"><link_ctn id="la" direction="UP"/><link_ctn id="lg"/></route>
        <route src="b" dst="rack-gate" symmetrical="NO"><link_ctn id="lb"/><link_ctn id="lg"/></route>
        <route src="rack-gate" dst="b" symmetrical="NO"><link_ctn id="lb"/></route>
      </zone>
      <zone id="ring" routing="Floyd">
        <host id="r0" speed="1Gf"/> <host id="r1" speed="1Gf"/> <host id="r2" speed="1Gf"/>
        <host id="r3" speed="1Gf"/> <host id="r4" speed="1Gf"/>
        <link id="l01" bandwidth="1GBps" latency="1us"/> <link id="l12" bandwidth="1GBps" latency="2us"/>
        <link id="l23" bandwidth="1GBps" latency="3us"/> <link id="l34" bandwidth="1GBps" latency="4us"/>
        <link id="l40" bandwidth="1GBps" latency="5us"/>
        <route src="r0" dst="r1"><link_ctn id="l01"/></route>
        <route src="r1" dst="r2"><link_ctn id="l12"/></route>
        <route src="r2" dst="r3"><link_ctn id="l23"/></route>
        <route src="r3" dst="r4"><link_ctn id="l34"/></route>
        <route src="r4" dst="r0"><link_ctn id="l40"/></route>
      </zone>
      <link id="between" bandwidth="3GBps" latency="10us"/>
      <zoneRoute src="rack" dst="ring" gw_src="rack-gate" gw_dst="r2"><link_ctn id="between"/></zoneRoute>
    </zone>
    <cluster id="c" prefix="node-" suffix=".c" radical="0-2,7" speed="1Gf" bw="12.5GBps" lat="1us"
             bb_bw="40GBps" bb_lat="3us"/>
    <cluster id="d" prefix="d" suffix="" radical="0-1" speed="1Gf" bw="1GBps" lat="9us"
             sharing_policy="SHARED"/>
    <link id="wc" bandwidth="1GBps" latency="1ms"/> <link id="cd" bandwidth="2GBps" latency="2ms"/>
    <link id="wd" bandwidth="4GBps" latency="3ms"/>
    <zoneRoute src="west" dst="c" gw_src="rack-gate" gw_dst="node-c_router.c"><link_ctn id="wc"/></zoneRoute>
    <zoneRoute src="c" dst="d" gw_src="node-c_router.c" gw_dst="dd_router"><link_ctn id="cd"/></zoneRoute>
    <zoneRoute src="west" dst="d" gw_src="rack-gate" gw_dst="dd_router"><link_ctn id="wd"/></zoneRoute>
  </zone>
</platform>
)";

// That SimGrid's routes over the exported cluster are the cluster's.
void check_export(const Cluster& cluster) {
  const s4u::Engine& engine = *load(simgrid_platform(cluster));
  REQUIRE(static_cast<int>(engine.get_host_count()) == cluster.gpus());
  std::vector<std::uint32_t> path;
  for (int from = 0; from < cluster.gpus(); ++from)
    for (int to = 0; to < cluster.gpus(); ++to) {
      if (from == to) continue;
      const Way way = way_of(engine.host_by_name("gpu" + std::to_string(from)),
                             engine.host_by_name("gpu" + std::to_string(to)));
      cluster.route(from, to, path);
      REQUIRE(way.links.size() == path.size() + 1);
      double slowest = cluster.bandwidth(from, to).value;
      for (std::size_t i = 0; i < path.size(); ++i) {
        REQUIRE(way.links[i] == cluster.links()[path[i]].name);
        slowest = std::min(slowest, cluster.links()[path[i]].bandwidth.value);
      }
      REQUIRE(way.slowest == slowest);
      REQUIRE(way.latency == near(cluster.latency(from, to).seconds().value, 1e-6));
    }
}

}  // namespace

TEST_CASE("hosts, links and routes of a platform file are those that SimGrid reads") {
  const SimgridNetwork ours = SimgridNetwork::parse(everything, "p.xml");
  const s4u::Engine& engine = *load(everything);
  REQUIRE(ours.hosts().size() == engine.get_host_count());
  REQUIRE(ours.hosts().size() == 13);
  for (const auto& link : ours.links()) {
    CAPTURE(link.name);
    const s4u::Link* theirs = engine.link_by_name_or_null(link.name);
    REQUIRE(theirs != nullptr);
    CHECK(theirs->get_bandwidth() == link.bandwidth.value);
    CHECK(theirs->get_latency() == near(link.latency.value, 1e-12));
    CHECK((theirs->get_sharing_policy() == s4u::Link::SharingPolicy::FATPIPE) == link.fat_pipe);
  }
  std::vector<std::uint32_t> path;
  for (std::size_t from = 0; from < ours.hosts().size(); ++from)
    for (std::size_t to = 0; to < ours.hosts().size(); ++to) {
      if (from == to) continue;
      CAPTURE(ours.hosts()[from]);
      CAPTURE(ours.hosts()[to]);
      path.clear();
      ours.route(static_cast<int>(from), static_cast<int>(to), path);
      const Way theirs =
          way_of(engine.host_by_name(ours.hosts()[from]), engine.host_by_name(ours.hosts()[to]));
      std::vector<std::string> names;
      double latency = 0;
      for (const std::uint32_t link : path) {
        names.push_back(ours.links()[link].name);
        latency += ours.links()[link].latency.value;
      }
      CHECK(names == theirs.links);
      CHECK(latency == near(theirs.latency, 1e-12));
    }
}

TEST_CASE("SimGrid loads an exported cluster and has its routes, bandwidths and latencies") {
  check_export(Cluster(read_platform(PlatformFolder(ORRERY_SOURCE_DIR), "two-dgx-a100")));
}

TEST_CASE("SimGrid loads an exported cluster of several sites") {
  const Cluster federation(read_platform(PlatformFolder(ORRERY_SOURCE_DIR), "federation-4090"));
  REQUIRE(federation.site(federation.gpus() - 1) > 0);
  check_export(federation);
}

TEST_CASE("a transfer over an exported cluster takes SimGrid as long as it takes us") {
  const Cluster cluster(read_platform(PlatformFolder(ORRERY_SOURCE_DIR), "two-dgx-a100"));
  s4u::Engine& engine = *load(simgrid_platform(cluster));
  const Bytes size(1'000'000'000);
  std::map<int, double> ended;        // by receiver
  for (const int to : {9, 10, 12}) {  // each over a NIC of its own
    sim::add_actor("sender", engine.host_by_name("gpu" + std::to_string(to - 8)), [&, to] {
      s4u::Comm::sendto(s4u::this_actor::get_host(),
                        engine.host_by_name("gpu" + std::to_string(to)),
                        static_cast<std::uint64_t>(size.value));
      ended[to] = s4u::Engine::get_clock();
    });
  }
  engine.run();
  REQUIRE(ended.size() == 3);
  for (const auto& [to, time] : ended)
    CHECK(time ==
          doctest::Approx(cluster.message_time(to - 8, to, size).seconds().value).epsilon(1e-9));
}
