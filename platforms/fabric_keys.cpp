// The keys of fabrics and wide-area networks.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <unordered_map>

#include "backend/core/text.hpp"
#include "backend/core/units_text.hpp"
#include "platforms/fabric.hpp"

namespace orrery {

namespace {

constexpr std::int64_t many_nodes = 1'000'000;

void check_fabric(const FabricSpec& s, const SectionProblems& p) {
  const bool tree = s.topology == "fat-tree", torus = s.topology == "torus";
  const bool simgrid = s.topology == "simgrid", dragonfly = !tree && !torus && !simgrid;
  const auto need = [&](const char* key, bool given, bool wanted) {
    if (wanted && !given) p.add(key, fmt::format("a {} needs it", s.topology));
    if (given && !wanted) p.add(key, fmt::format("a {} has none", s.topology));
  };
  need("nodes_per_group", s.nodes_per_group.has_value(), dragonfly);
  need("links_per_pair", s.links_per_pair.has_value(), dragonfly);
  need("link_bandwidth", s.link_bandwidth.has_value(), dragonfly || torus);
  need("dimensions", !s.dimensions.empty(), torus);
  need("file", s.file.has_value(), simgrid);
  if (!s.hosts.empty()) need("hosts", true, simgrid);
  double places = 1;
  for (const auto& size : s.dimensions) places *= static_cast<double>(size.value);
  if (s.dimensions.size() > 6 || places > 1e6)
    p.add("dimensions", "a torus has at most six dimensions and a million places");
  if (s.nodes_per_pod && !(tree && s.levels.value > 2))
    p.add("nodes_per_pod", "there are pods in fat trees of three levels and more");
  if (s.nodes_per_leaf && (torus || simgrid))
    p.add("nodes_per_leaf", fmt::format("a {} has none", s.topology));
  if (s.oversubscription.value > 1) {
    if (!tree)
      p.add("oversubscription", fmt::format("a {} is described by its links", s.topology));
    else if (s.levels.value < 2)
      p.add("oversubscription", "a single switch has full bandwidth", "use 1, or more levels");
    else if (s.levels.value == 2 && !s.nodes_per_leaf)
      p.add("oversubscription", "who shares it?", "add nodes_per_leaf");
    else if (s.levels.value > 2 && !s.nodes_per_pod)
      p.add("oversubscription", "who shares it?", "add nodes_per_pod");
  }
  if (s.leaf_oversubscription.value > 1 &&
      (torus || simgrid || !s.nodes_per_leaf || (tree && s.levels.value < 3)))
    p.add("leaf_oversubscription", "there are no leaves below another level",
          tree ? "use oversubscription" : "add nodes_per_leaf");
  if (s.routing == "minimal" && !dragonfly)
    p.add("routing", fmt::format("minimal is for dragonflies, not for a {}", s.topology));
  if (s.routing == "ecmp" && !(tree && s.nodes_per_leaf) && !dragonfly)
    p.add("routing", "ecmp is for fat trees with nodes_per_leaf and for dragonflies");
  if (s.nodes_per_leaf && s.nodes_per_pod && s.nodes_per_pod->value % s.nodes_per_leaf->value != 0)
    p.add("nodes_per_pod", "a pod holds whole leaves");
}

}  // namespace

void describe(Fields<FabricSpec>& f) {
  f.field("topology", &FabricSpec::topology)
      .one_of({"fat-tree", "dragonfly", "dragonfly+", "torus", "simgrid"});
  f.field("routing", &FabricSpec::routing)
      .one_of({"adaptive", "minimal", "ecmp"})
      .doc(
          "adaptive spreads evenly, in dragonflies by way of third groups too; minimal: "
          "dragonflies, evenly over direct links; ecmp: by hash");
  f.field("levels", &FabricSpec::levels).between(1, 4).doc("of switches of a fat tree");
  f.field("oversubscription", &FabricSpec::oversubscription)
      .between(1, 1000)
      .doc("of the top of a fat tree: bandwidth below over bandwidth above");
  f.field("leaf_oversubscription", &FabricSpec::leaf_oversubscription).between(1, 1000);
  f.field("nodes_per_leaf", &FabricSpec::nodes_per_leaf)
      .between(1, many_nodes)
      .doc("on one switch, or on one per rail; absent: every pair crosses the top");
  f.field("nodes_per_pod", &FabricSpec::nodes_per_pod).between(1, many_nodes);
  f.field("nodes_per_group", &FabricSpec::nodes_per_group)
      .between(1, many_nodes)
      .doc("of a dragonfly");
  f.field("links_per_pair", &FabricSpec::links_per_pair)
      .between(1, many_nodes)
      .doc("of a dragonfly: global links between two groups");
  f.list("dimensions", &FabricSpec::dimensions)
      .between(1, many_nodes)
      .doc("of a torus, in nodes; at most six");
  f.field("link_bandwidth", &FabricSpec::link_bandwidth)
      .positive()
      .doc("of a global link, or of a link of a torus, per direction");
  f.field("hop_latency", &FabricSpec::hop_latency).doc("of one switch");
  f.field("file", &FabricSpec::file)
      .doc("of a simgrid fabric: a SimGrid platform, relative to this file");
  f.list("hosts", &FabricSpec::hosts)
      .doc("of that file: those that are nodes, in order, such as 'node[0-15].site'; absent: all");
  f.check([](const FabricSpec& s, const SectionProblems& p) { check_fabric(s, p); });
}

namespace {

// Beside the file that names it, else where the program was started.
std::string path_of(const Sourced<std::string>& file) {
  namespace fs = std::filesystem;
  if (file.mark.source == nullptr) return file.value;
  const fs::path beside = fs::path(file.mark.source->name).parent_path() / file.value;
  std::error_code none;
  return fs::is_regular_file(beside, none) ? beside.string() : file.value;
}

}  // namespace

void read_simgrid_fabric(FabricSpec& spec, std::int64_t nodes, BytesPerSecond fastest_nic) {
  const Sourced<std::string>& file = *spec.file;
  const auto network =
      std::make_shared<const SimgridNetwork>(SimgridNetwork::read_file(path_of(file), file.mark));
  Problems problems;
  std::unordered_map<std::string, int> known;
  for (const std::string& name : network->hosts())
    known.emplace(name, static_cast<int>(known.size()));
  std::vector<int> hosts;
  std::vector<bool> named(known.size(), false);
  for (const Sourced<std::string>& pattern : spec.hosts) {
    const std::vector<std::string> names = expand_host_names(pattern.value);
    if (names.empty())
      problems.add(pattern.mark, fmt::format("'{}' names no hosts", pattern.value),
                   "write a name, or such as 'node[0-15,20].site'");
    for (const std::string& name : names) {
      const auto host = known.find(name);
      if (host == known.end()) {
        problems.add(pattern.mark, fmt::format("{} has no host '{}'", file.value, name),
                     did_you_mean(name, network->hosts()));
        continue;
      }
      auto again = named[static_cast<std::size_t>(host->second)];
      if (again) problems.add(pattern.mark, fmt::format("host '{}' is named twice", name));
      again = true;
      hosts.push_back(host->second);
    }
  }
  for (int host = 0; spec.hosts.empty() && host < static_cast<int>(network->hosts().size()); ++host)
    hosts.push_back(host);
  if (problems.empty() && static_cast<std::int64_t>(hosts.size()) != nodes)
    problems.add(spec.hosts.empty() ? file.mark : spec.hosts.front().mark,
                 fmt::format("{} hosts for {} nodes of the cluster's parts", hosts.size(), nodes),
                 "'hosts' says which are nodes, 'parts' how many nodes there are");
  for (const SimgridNetwork::Link& link : network->links())
    if (link.crossed && link.fat_pipe && link.bandwidth < fastest_nic)
      problems.add(link.at,
                   fmt::format("not available yet: a FATPIPE link slower than the nodes' NICs ({})",
                               quantity_text(fastest_nic)),
                   "SHARED links are simulated");
  problems.throw_if_any();
  spec.network = network;
  spec.host_of_node = std::move(hosts);
}

void describe(Fields<WanPairSpec>& f) {
  f.list("sites", &WanPairSpec::sites).required().at_least_items(2).doc("two of them");
  f.field("latency", &WanPairSpec::latency);
  f.field("bandwidth", &WanPairSpec::bandwidth).positive();
  f.field("loss", &WanPairSpec::loss).between(0, 0.5);
  f.field("connections", &WanPairSpec::connections).between(1, 1'000'000);
  f.check([](const WanPairSpec& pair, const SectionProblems& p) {
    if (pair.sites.size() != 2 || pair.sites[0] == pair.sites[1])
      p.add("sites", "a pair is two different sites");
  });
}

void describe(Fields<WanSpec>& f) {
  f.field("access", &WanSpec::access)
      .positive()
      .doc("of each site, per direction, for all that it exchanges");
  f.field("latency", &WanSpec::latency).required().positive().doc("one way, between two sites");
  f.field("bandwidth", &WanSpec::bandwidth).positive().doc("between two sites, per direction");
  f.field("loss", &WanSpec::loss).between(0, 0.5).doc("share of packets; it limits TCP");
  f.field("connections", &WanSpec::connections)
      .between(1, 1'000'000)
      .doc("of TCP that carry a transfer together");
  f.list("pairs", &WanSpec::pairs).doc("of sites that differ from this");
  f.check([](const WanSpec& w, const SectionProblems& p) {
    if (!w.access && !w.bandwidth && w.pairs.empty())
      p.add("latency", "a wan without access, bandwidth and pairs has no bandwidth");
  });
}

}  // namespace orrery
