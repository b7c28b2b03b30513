// The network between the nodes of a cluster: what platform files say of it, and computed routes.
//
// A fabric joins ports: port i of a node is its i-th NIC. Each site of a cluster has a fabric of
// its own, built alike; a WAN joins the sites. What lies between two NICs is made of units that
// hold ports, from the inside out:
//
//   fat-tree    leaf (one switch; of one rail, where nodes are rail-optimised), pod
//   dragonfly   switch, group (Kim, Dally, Scott and Abts 2008)
//   dragonfly+  leaf, group of leaves and spines (Shpiner et al. 2017)
//   torus       no units: nodes are routers with a link to each neighbour; dimensions in order, the
//               shorter way round, up where both are equal
//   simgrid     none of these: hosts, links and routes of a SimGrid platform file. Nodes are its
//               hosts; what goes from one to another has its NIC's link, the file's, the other
//               NIC's
//
// Routing. `adaptive` spreads every flow evenly over its equal paths. All parallel links of a unit
// then carry the same, so one link up and one link down stand for them, with their bandwidth
// summed: exact for fat trees. It is left out where it cannot bind, that is where it carries what
// the NICs below it can. The global links of a dragonfly group count as one in each direction too:
// right for traffic to many groups, and for one pair of groups among idle ones, by way of third
// groups; up to twice too fast where every group sends to one other. `minimal` (dragonflies) keeps
// to the direct links of a pair of groups, the equal and shortest ways, and spreads evenly over
// them. `ecmp` puts each flow, by a hash of its two ports, on one of the parallel links: of a fat
// tree, and so on one spine; of a dragonfly, on one of the direct links of a pair of groups, and in
// a dragonfly+ on one spine of its groups. Links inside a dragonfly group are
// taken to suffice.
//
// Switches passed: fat tree 1 in a leaf, 3 in a pod, 2 levels - 1 across the top; dragonfly 1, 2 in
// a group, 4; dragonfly+ 1, 3, 4; torus routers passed, both ends included.
// The links of a SimGrid file have their own latencies.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/core/config.hpp"
#include "platforms/machine.hpp"
#include "platforms/simgrid_network.hpp"

namespace orrery {

struct FabricSpec {
  std::string topology = "fat-tree";
  std::string routing = "adaptive";
  // Of a fat tree. Oversubscription: bandwidth below over bandwidth above; of the top of the tree,
  // and of its leaves where there is a level between.
  Sourced<std::int64_t> levels{1};
  Sourced<double> oversubscription{1}, leaf_oversubscription{1};
  std::optional<Sourced<std::int64_t>> nodes_per_leaf, nodes_per_pod;
  // Of dragonflies.
  std::optional<Sourced<std::int64_t>> nodes_per_group, links_per_pair;
  // Of a torus, in nodes; neighbouring nodes differ in the first.
  std::vector<Sourced<std::int64_t>> dimensions;
  std::optional<Sourced<BytesPerSecond>> link_bandwidth;  // global links, or those of a torus
  Sourced<Seconds> hop_latency;
  // Of a simgrid fabric: the file, and which of its hosts are the nodes, in order; none: all.
  std::optional<Sourced<std::string>> file;
  std::vector<Sourced<std::string>> hosts;
  std::shared_ptr<const SimgridNetwork> network;  // what the file says, once it has been read
  std::vector<int> host_of_node;
};
void describe(Fields<FabricSpec>& f);

// Reads the file of a simgrid fabric for so many nodes and fills in what it says. Throws
// ConfigError with what is wrong: in the file, or where the fabric names it.
void read_simgrid_fabric(FabricSpec& spec, std::int64_t nodes, BytesPerSecond fastest_nic);

// What replaces the general figures of a WAN between two sites.
struct WanPairSpec {
  std::vector<std::string> sites;
  std::optional<Sourced<Seconds>> latency;
  std::optional<Sourced<BytesPerSecond>> bandwidth;
  std::optional<Sourced<double>> loss;
  std::optional<Sourced<std::int64_t>> connections;
};
void describe(Fields<WanPairSpec>& f);

struct WanSpec {
  std::optional<Sourced<BytesPerSecond>> access;     // of a site, each way, for all it exchanges
  Sourced<Seconds> latency;                          // one way, between two sites
  std::optional<Sourced<BytesPerSecond>> bandwidth;  // between two sites, each way
  Sourced<double> loss{0};                           // share of packets that are lost
  Sourced<std::int64_t> connections{1};              // of TCP, that carry a transfer together
  std::vector<WanPairSpec> pairs;
};
void describe(Fields<WanSpec>& f);

// What `connections` TCP connections with packets of 1,460 bytes sustain together over a path with
// this one-way latency and loss: MSS / RTT sqrt(3/2) / sqrt(loss) each (Mathis, Semke, Mahdavi and
// Ott 1997, equation 3).
BytesPerSecond tcp_rate(Seconds latency, double loss, std::int64_t connections);

class Fabric {
 public:
  struct Node {
    std::int32_t site = 0;
    std::int32_t nics = 0;
    BytesPerSecond bandwidth;  // of one NIC, as far as it can be used
    bool rail_optimised = false;
  };
  struct Port {
    int node = 0, nic = 0;
  };

  Fabric() = default;  // joins nothing
  // `nodes` are all of the cluster, whether a run uses them or not; those of a site lie side by
  // side. Appends its links to `links`. Error{config} where a torus has too few places.
  Fabric(const FabricSpec& spec, const std::optional<WanSpec>& wan,
         const std::vector<std::string>& sites, std::vector<Node> nodes,
         std::vector<LinkSpec>& links);

  // Between the NIC of `from` and that of another node. Appends the links that may bind.
  void route(Port from, Port to, std::vector<std::uint32_t>& path) const;
  int switches(Port from, Port to) const;
  Seconds latency(Port from, Port to) const;    // of the switches, or a SimGrid file's links
  Seconds wan_latency(int from, int to) const;  // between the sites of two nodes
  int site(int node) const { return nodes_[static_cast<std::size_t>(node)].site; }
  int sites() const { return static_cast<int>(site_begin_.size()); }

 private:
  // Units of one kind.
  struct Tier {
    std::int64_t nodes = 1;           // that share a unit
    int rails = 1;                    // units of a block of nodes: one per NIC of a node
    std::vector<std::int32_t> first;  // by node: the unit of its first NIC
    std::int32_t units = 0;
    int parallel = 0;  // links of a unit, each way; 0: they never bind
    std::uint32_t base = 0;
    int switches = 1;  // passed by what stays inside a unit
  };
  void add_tier(std::int64_t nodes, bool by_rail, int switches);
  // Gives the last tier its links: the bandwidth below over `oversubscription`, or `rate` if that
  // is not 0. As many as there are ports' worth of it with ecmp, else one.
  void link_tier(const char* name, LinkTier kind, double oversubscription, BytesPerSecond rate,
                 std::vector<LinkSpec>& links);
  void make_fat_tree(const FabricSpec& spec, std::vector<LinkSpec>& links);
  void make_dragonfly(const FabricSpec& spec, std::vector<LinkSpec>& links);
  void make_simgrid(const FabricSpec& spec, std::vector<LinkSpec>& links);
  void make_torus(const FabricSpec& spec, std::vector<LinkSpec>& links);
  void make_wan(const WanSpec& wan, const std::vector<std::string>& sites,
                std::vector<LinkSpec>& links);

  std::int32_t index(int node) const {  // in its site
    return node - site_begin_[static_cast<std::size_t>(site(node))];
  }
  std::int32_t unit(const Tier& tier, Port port) const;
  std::size_t meeting(Port from, Port to) const;  // tiers in which they differ
  void climb(const Tier& tier, Port port, std::uint64_t hash, bool down,
             std::vector<std::uint32_t>& path) const;
  void way_in_network(Port from, Port to, std::vector<std::uint32_t>& path) const;
  void walk_torus(Port from, Port to, std::vector<std::uint32_t>* path, int& hops) const;

  std::vector<Node> nodes_;
  std::vector<std::int32_t> site_begin_;  // number of its first node
  std::vector<Tier> tiers_;               // from the inside out
  int top_switches_ = 1;
  Seconds hop_;
  bool minimal_ = false, ecmp_ = false;
  std::uint32_t pair_base_ = 0;            // minimal, or ecmp: links of each pair of groups,
  std::uint32_t pair_parallel_ = 0;        // so many of them; 0: groups have theirs in common
  std::vector<std::int64_t> torus_;        // dimensions
  std::vector<std::uint32_t> torus_base_;  // by site
  std::vector<Seconds> wan_latency_;       // by pair of sites
  std::vector<std::int64_t> wan_link_;     // by pair; -1: none
  std::int64_t access_base_ = -1;
  std::shared_ptr<const SimgridNetwork> network_;
  std::vector<int> host_of_node_;
  std::vector<std::int64_t> network_link_;  // by link of the file; -1: it never binds
};

}  // namespace orrery
