// Clusters whose network a SimGrid platform file describes, and what is wrong with such files.
#include "platforms/simgrid_network.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>

#include "backend/core/text.hpp"
#include "platforms/cluster.hpp"
#include "tests/support/near.hpp"

using namespace orrery;

namespace {

namespace fs = std::filesystem;

// A platform with this in its one zone, whose first line is line 3.
std::string zone(const std::string& content, const std::string& routing = "Full") {
  return "<platform version=\"4.1\">\n<zone id=\"z\" routing=\"" + routing + "\">\n" + content +
         "\n</zone></platform>\n";
}
const std::string pair_of_hosts =
    "<host id=\"a\" speed=\"1Gf\"/><host id=\"b\" speed=\"1Gf\"/>"
    "<link id=\"l\" bandwidth=\"1GBps\" latency=\"1us\"/>";

// "LINE:COLUMN text; suggestion" of the first message.
std::string refusal(const std::string& text) {
  try {
    SimgridNetwork::parse(text, "p.xml");
  } catch (const ConfigError& error) {
    const ConfigMessage& m = error.messages.front();
    CHECK(m.file == "p.xml");
    return std::to_string(m.line) + ":" + std::to_string(m.column) + " " + m.text + "; " +
           m.suggestion;
  }
  return "read";
}
void check_refused(const std::string& content, const std::string& expected) {
  const std::string told = refusal(zone(pair_of_hosts + "\n" + content));
  CAPTURE(told);
  CHECK(told.starts_with(expected));
}

class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / ("orrery_simgrid_" + std::to_string(::getpid()))) {
    fs::create_directories(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  std::string write(const std::string& name, const std::string& text) const {
    write_file_atomically((path_ / name).string(), text);
    return (path_ / name).string();
  }

 private:
  fs::path path_;
};

// Four DGX A100, each eight ports of 23 GB/s, on a switch of 30 GB/s with links of 20 GB/s to it.
const char* const star =
    "<platform version=\"4.1\"><zone id=\"all\" routing=\"Full\">\n"
    "<cluster id=\"gpu\" prefix=\"g\" suffix=\"\" radical=\"0-3\" speed=\"1Gf\" bw=\"20GBps\" "
    "lat=\"2us\" bb_bw=\"30GBps\" bb_lat=\"1us\"/>\n"
    "<cluster id=\"cpu\" prefix=\"c\" suffix=\"\" radical=\"0-3\" speed=\"1Gf\" bw=\"1GBps\" "
    "lat=\"2us\"/>\n"
    "<link id=\"up\" bandwidth=\"1GBps\"/>\n"
    "<zoneRoute src=\"gpu\" dst=\"cpu\" gw_src=\"ggpu_router\" gw_dst=\"ccpu_router\">"
    "<link_ctn id=\"up\"/></zoneRoute>\n"
    "</zone></platform>\n";

std::string cluster_file(const std::string& fabric, int count = 4) {
  return "name: imported\nsource: {kind: assumed}\nparts: [{node: dgx-a100, count: " +
         std::to_string(count) + "}]\nfabric:\n  topology: simgrid\n  file: star.xml\n" + fabric;
}

Cluster imported(const std::string& fabric, int count = 4) {
  const Folder xml_folder;
  xml_folder.write("star.xml", star);
  const std::string file = xml_folder.write("imported.yaml", cluster_file(fabric, count));
  return Cluster(read_platform(PlatformFolder(ORRERY_SOURCE_DIR), file));
}

std::string import_refusal(const std::string& fabric, int count = 4) {
  try {
    imported(fabric, count);
  } catch (const ConfigError& error) {
    const ConfigMessage& m = error.messages.front();
    return fs::path(m.file).filename().string() + ":" + std::to_string(m.line) + " " + m.text +
           "; " + m.suggestion;
  }
  return "read";
}

}  // namespace

TEST_CASE("a cluster takes links and latencies between its nodes from a SimGrid file") {
  const Cluster c = imported("  hosts: ['g[0-3]']\n");
  REQUIRE(c.gpus() == 32);
  std::vector<std::uint32_t> path;
  c.route(3, 19, path);  // port 3 of nodes 0 and 2
  std::vector<std::string> names;
  for (const std::uint32_t link : path) names.push_back(c.links()[link].name);
  CHECK(names == std::vector<std::string>{"node0.nic3.out", "gpu_link_0_UP", "gpu_backbone",
                                          "gpu_link_2_DOWN", "node2.nic3.in"});
  CHECK(c.bandwidth(3, 19).value == 20e9);
  // 2 + 1 + 2 us, and that once more to signal, beyond what two nodes on one switch without latency
  // have.
  Platform flat = read_platform(PlatformFolder(ORRERY_SOURCE_DIR), "two-dgx-a100");
  flat.cluster.fabric.hop_latency.value = Seconds(0);
  CHECK(c.latency(3, 19).seconds().value ==
        near(Cluster(flat).latency(3, 11).seconds().value + 2 * 5e-6, 1e-6));
  // Two transfers from one node share its link, two between other nodes the backbone.
  const Bytes size(1'000'000'000);
  CHECK(transfer_time(c, {{0, 8, size}, {1, 17, size}}).value == doctest::Approx(2 / 20.0));
  CHECK(transfer_time(c, {{0, 8, size}, {16, 24, size}}).value == doctest::Approx(2 / 30.0));
  const auto simgrid = std::count_if(c.links().begin(), c.links().end(), [](const LinkSpec& link) {
    return link.tier == LinkTier::simgrid;
  });
  CHECK(simgrid == 8 + 1 + 8 + 1);
}

TEST_CASE("which hosts are nodes is said by name, range and order") {
  const Cluster c = imported("  hosts: [c2, 'g[3,0-1]']\n");
  std::vector<std::uint32_t> path;
  c.route(0, 8, path);
  std::vector<std::string> names;
  for (const std::uint32_t link : path) names.push_back(c.links()[link].name);
  CHECK(names == std::vector<std::string>{"node0.nic0.out", "cpu_link_2_UP", "up", "gpu_backbone",
                                          "gpu_link_3_DOWN", "node1.nic0.in"});
  CHECK(expand_host_names("n[0-2,7].x") ==
        std::vector<std::string>{"n0.x", "n1.x", "n2.x", "n7.x"});
  CHECK(expand_host_names("n[2-1]").empty());
  CHECK(expand_host_names("n[x]").empty());
  CHECK(expand_host_names("n[0-99999999]").empty());
}

TEST_CASE("nodes and hosts that do not fit each other are refused where they are named") {
  CHECK(import_refusal("", 8) == "read");
  CHECK(import_refusal("") ==
        "imported.yaml:6 8 hosts for 4 nodes of the cluster's parts; 'hosts' "
        "says which are nodes, 'parts' how many nodes there are");
  CHECK(import_refusal("  hosts: ['g[0-2]', gg3]\n") ==
        "imported.yaml:7 star.xml has no host 'gg3'; did you mean 'g3'?");
  CHECK(import_refusal("  hosts: ['g[0-3]', g1]\n") ==
        "imported.yaml:7 host 'g1' is named twice; ");
  CHECK(
      import_refusal("  hosts: ['g[0-3']\n").starts_with("imported.yaml:7 'g[0-3' names no hosts"));
  CHECK(import_refusal("  levels: 2\n  oversubscription: 2\n")
            .starts_with("imported.yaml:8 fabric.oversubscription"));
}

TEST_CASE("a WAN beside the links of a SimGrid file is refused") {
  CHECK(import_refusal("  hosts: ['g[0-3]']\nwan: {latency: 5ms, bandwidth: 1Gbps}\n")
            .find("a SimGrid platform has the links between sites itself; leave it out") !=
        std::string::npos);
}

TEST_CASE("what a platform file says wrongly is told at its line and column") {
  CHECK(refusal("").starts_with("1:1 this is not XML"));
  CHECK(refusal("\r").starts_with("1:1 "));  // a line's end has no column
  CHECK(refusal("<platform version=\"4.1\">\n<zone id=\"z\"").starts_with("2:"));
  CHECK(refusal("<platform\n\xff>").starts_with("2:1 this is not UTF-8"));
  CHECK(refusal("<a/>").starts_with("1:1 a SimGrid platform begins with <platform"));
  CHECK(refusal("<platform version=\"3\"><zone id=\"z\" routing=\"Full\"/></platform>")
            .starts_with("1:2 expected a platform of version 4, got '3'"));
  CHECK(refusal(zone("", "Vivaldi")).starts_with("2:14 routing: 'Vivaldi' is not read; read are"));
  CHECK(refusal(zone("", "Floid")) == "2:14 routing: 'Floid' is not read; did you mean 'Floyd'?");
  CHECK(refusal(zone("")).starts_with("2:2 the platform has no host"));
  check_refused("<hots id=\"c\"/>", "4:2 <hots> is not read; did you mean 'host'?");
  check_refused("<peer id=\"c\"/>", "4:2 <peer> is not read; ");
  check_refused("<link id=\"m\"/>", "4:2 <link> needs bandwidth");
  check_refused("<link id=\"m\" bandwidth=\"1GHz\"/>",
                "4:14 bandwidth: expected a bandwidth such as 25GBps or 200Gbps, got '1GHz'");
  check_refused("<link id=\"m\" bandwidth=\"0Bps\"/>", "4:14 bandwidth: a link has at least 1MBps");
  check_refused("<link id=\"m\" bandwidth=\"1MBps\" latencie=\"1us\"/>",
                "4:32 latencie of <link> is not read; did you mean 'latency'?");
  check_refused("<link id=\"m\" bandwidth=\"1MBps\" bandwidth_file=\"x\"/>",
                "4:32 bandwidth_file of <link> is not read");
  check_refused("<link id=\"m\" bandwidth=\"1MBps\" sharing_policy=\"WIFI\"/>",
                "4:32 sharing_policy: 'WIFI' is not read");
  check_refused("<host id=\"a\"/>", "4:2 there is a host or router 'a' already");
  check_refused("<route src=\"b\" dst=\"a\"><link_ctn id=\"l\"/><link_ctn id=\"l\"/></route>",
                "4:52 the route crosses link 'l' twice");
  check_refused("<route src=\"a\" dst=\"c\"><link_ctn id=\"l\"/></route>",
                "4:16 there is no host or router 'c'");
  check_refused("<route src=\"a\" dst=\"b\"><link_ctn id=\"ll\"/></route>",
                "4:34 there is no link 'll'; did you mean 'l'?");
  check_refused("<route src=\"a\" dst=\"b\"/>", "4:2 a route has at least one link");
  check_refused("", "2:2 zone z has no route from a to b");
  check_refused("<route src=\"a\" dst=\"b\" symmetrical=\"NO\"><link_ctn id=\"l\"/></route>",
                "2:2 zone z has no route from b to a");
  check_refused(
      "<route src=\"a\" dst=\"b\"><link_ctn id=\"l\"/></route>\n"
      "<route src=\"b\" dst=\"a\"><link_ctn id=\"l\"/></route>",
      "5:2 there is a route between these already");
  check_refused(
      "<link id=\"m\" bandwidth=\"1MBps\" sharing_policy=\"SPLITDUPLEX\"/>\n"
      "<route src=\"a\" dst=\"b\"><link_ctn id=\"m\"/></route>",
      "5:34 there is no link 'm'; a SPLITDUPLEX link has a direction");
  check_refused(
      "<route src=\"a\" dst=\"b\"><link_ctn id=\"l\"/></route>\n"
      "<zone id=\"y\" routing=\"Full\"><host id=\"c\"/></zone>",
      "2:2 zone z has a beside zones");
}

TEST_CASE("a FATPIPE link that could hold a transfer up is refused, others are left out") {
  const auto with = [](const std::string& bandwidth) {
    const Folder xml_folder;
    xml_folder.write(
        "star.xml", zone("<host id=\"a\"/><host id=\"b\"/><link id=\"l\" bandwidth=\"" + bandwidth +
                         "\" latency=\"7us\" sharing_policy=\"FATPIPE\"/>\n<route "
                         "src=\"a\" dst=\"b\"><link_ctn id=\"l\"/></route>"));
    const std::string file = xml_folder.write("imported.yaml", cluster_file("", 2));
    return Cluster(read_platform(PlatformFolder(ORRERY_SOURCE_DIR), file));
  };
  const Cluster fine = with("25GBps");
  std::vector<std::uint32_t> path;
  fine.route(0, 8, path);
  CHECK(path.size() == 2);
  CHECK(fine.latency(0, 8) > to_time(Seconds(7e-6)));
  CHECK_THROWS_AS(with("1GBps"), ConfigError);
}

TEST_CASE("links of a SimGrid file that are called as those of the cluster are exported apart") {
  const Folder xml_folder;
  xml_folder.write("star.xml",
                   zone("<host id=\"a\"/><host id=\"b\"/><link id=\"pair0\" bandwidth=\"1GBps\"/>"
                        "<link id=\"node0.nic0.out\" bandwidth=\"2GBps\"/><link id=\"l&#10;m\" "
                        "bandwidth=\"3GBps\"/>\n<route src=\"a\" dst=\"b\"><link_ctn id=\"pair0\"/>"
                        "<link_ctn id=\"node0.nic0.out\"/><link_ctn id=\"l&#10;m\"/></route>"));
  const std::string file = xml_folder.write("imported.yaml", cluster_file("", 2));
  const Cluster c(read_platform(PlatformFolder(ORRERY_SOURCE_DIR), file));
  const SimgridNetwork back = SimgridNetwork::parse(simgrid_platform(c), "exported.xml");
  std::vector<std::uint32_t> path, ours;
  back.route(0, 8, path);
  c.route(0, 8, ours);
  REQUIRE(path.size() == ours.size() + 1);
  for (std::size_t i = 0; i < ours.size(); ++i)
    CHECK(back.links()[path[i]].bandwidth == c.links()[ours[i]].bandwidth);
  CHECK(back.links()[path[3]].name == "l\nm");
}

TEST_CASE("an exported platform is one that we read: a host per GPU, a route per pair") {
  const Cluster c(read_platform(PlatformFolder(ORRERY_SOURCE_DIR), "two-dgx-a100"), 10);
  const SimgridNetwork back = SimgridNetwork::parse(simgrid_platform(c), "exported.xml");
  REQUIRE(back.hosts().size() == 10);
  CHECK(back.hosts()[9] == "gpu9");
  std::vector<std::uint32_t> path, ours;
  back.route(1, 9, path);
  c.route(1, 9, ours);
  REQUIRE(path.size() == ours.size() + 1);
  for (std::size_t i = 0; i < ours.size(); ++i)
    CHECK(back.links()[path[i]].name == c.links()[ours[i]].name);
  CHECK(back.links()[path.back()].latency.value == near(c.latency(1, 9).seconds().value, 1e-6));
  Platform large = read_platform(PlatformFolder(ORRERY_SOURCE_DIR), "dgx-h100-superpod");
  CHECK_THROWS_AS(simgrid_platform(Cluster(std::move(large), 1025)), Error);
}
