// A simulated cluster made from platform files: the first N GPUs of its nodes, filled in order.
//
// Where a GPU has a measured table for a kernel's class, or the cluster one for a collective on a
// group inside a node, the table answers; formulas answer the rest. Tables are those measured with
// as many busy devices as the fullest node has GPUs in use.
//
// Links: every GPU has a scale-up port (out, in), every socket of several (out, in), and every NIC
// a port (out, in). A transfer inside a node takes [scale-up out, scale-up in], with the sockets'
// links between where it goes from one to another; any other [NIC out, fabric, NIC in] of the two
// GPUs' own NICs. GPU i of a node uses NIC i * nics / gpus, so rails join equal places. What the
// fabric adds is told in fabric.hpp.
//
// Rings of a group over several nodes: one per NIC that it has in every node. Ring j goes through
// the members of a node from NIC j on, and back in every second node, so that it leaves a node by
// the rail by which it enters the next.
//
// A group over several sites: its collectives reduce or gather inside the sites and cross the WAN
// once, in a ring of sites in which every member handles an equal part.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "platforms/collective_time.hpp"
#include "platforms/fabric.hpp"
#include "platforms/link_load.hpp"
#include "platforms/machine.hpp"
#include "platforms/platform.hpp"

namespace orrery {

// A number behind a result that nobody measured or published.
struct Assumption {
  std::string path;   // "gpus/a100-sxm-80gb.yaml: memory.achieved"
  std::string value;  // "0.8"
  std::string reason;
  bool operator==(const Assumption&) const = default;
};

class Cluster : public Machine {
 public:
  // `gpus` from 1 to platform.gpus(), 0 = all. Error{config} otherwise.
  explicit Cluster(Platform platform, int gpus = 0);
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  int gpus() const override { return static_cast<int>(places_.size()); }
  Bytes device_memory(int gpu) const override;
  int kind(int gpu) const override { return place(gpu).kind; }
  Time kernel_time(const Kernel& kernel, const Cost& cost, int kind) const override;
  HostCosts host(int gpu) const override;
  bool interferes() const override { return platform_.stack.interference.has_value(); }
  Taken waiting(Collective kind, const std::vector<int>& members) const override;
  Taken transferring(Collective kind, Bytes volume, Time total) const override;
  // At least one multiprocessor, and of the memory's bandwidth a fair share, is left to a kernel.
  // What is stated or measured takes longer as the formulas say.
  Time kernel_time_beside(const Kernel& kernel, const Cost& cost, int kind,
                          const Taken& taken) const override;
  Time latency(int from, int to) const override;
  Time message_time(int from, int to, Bytes size) const override;
  BytesPerSecond bandwidth(int from, int to) const override;
  // Members are GPUs, in any order and each once.
  std::optional<SharedProcessor> processor(int gpu) const override;
  CollectivePlan plan(Collective kind, Bytes size, const std::vector<int>& members) const override;
  const std::vector<LinkSpec>& links() const override { return links_; }
  void route(int from, int to, std::vector<std::uint32_t>& path) const override;
  std::vector<std::vector<int>> rings(const std::vector<int>& members) const override;
  std::vector<Flow> flows(Collective kind, Bytes size,
                          const std::vector<int>& members) const override;

  // Multiplies the bandwidth of each link: a cluster in another condition. By link, all positive.
  void scale_links(const std::vector<double>& factors);

  const Platform& platform() const { return platform_; }
  const GpuSpec& gpu(int gpu) const { return kinds_[static_cast<std::size_t>(place(gpu).kind)]; }
  int node(int gpu) const { return place(gpu).node; }
  int site(int gpu) const { return fabric_.sites() > 1 ? fabric_.site(node(gpu)) : 0; }
  // Sum over the GPUs of their dense peak for this type: the denominator of MFU. Error{config}
  // where a GPU has none.
  FlopsPerSecond peak(Dtype dtype) const;

  // The assumed numbers that answers so far were made from, and a generic stack; sorted by path. A
  // run asks at its end.
  std::vector<Assumption> assumptions() const;

 private:
  struct Place {
    int node = 0;
    int local = 0;
    std::uint16_t kind = 0;  // index into kinds_
    std::uint16_t part = 0;
  };
  const Place& place(int gpu) const;
  const NodeSpec& node_spec(const Place& p) const { return platform_.parts[p.part].node; }
  int nic(const Place& p) const;  // index in its node
  std::uint32_t nic_link(const Place& p) const;
  Fabric::Port port(const Place& p) const { return {p.node, nic(p)}; }
  int numa(const Place& p) const;  // its socket
  Seconds network_latency(const Place& from, const Place& to) const;
  Seconds wan_latency(const Place& from, const Place& to) const;
  const GroupShape& shape(Collective kind, const std::vector<int>& members) const;
  GroupShape make_shape(Collective kind, const std::vector<int>& members) const;
  void shape_network(Collective kind, const std::vector<int>& members, GroupShape& g) const;
  void shape_inside(const std::vector<int>& members, GroupShape& g) const;
  double quality(const std::vector<int>& members) const;
  double quality_inside(const std::vector<int>& members) const;
  std::vector<int> by_node(const std::vector<int>& members, std::vector<std::size_t>& begins) const;
  std::vector<std::vector<int>> by_site(const std::vector<int>& members) const;
  CollectivePlan plan_sites(Collective kind, Bytes size, const std::vector<int>& members,
                            const std::vector<std::vector<int>>& sites) const;
  std::vector<Flow> site_flows(Bytes each, const std::vector<std::vector<int>>& sites) const;
  void make_links();
  void make_fabric();
  // Remembers that an answer used the numbers at this path and below of a file. `file` outlives the
  // cluster.
  void used(const std::string& file, const char* path) const;
  void note_head(const GpuSpec& spec, const AttentionSpec& row, std::int64_t head) const;
  void note_outside(const std::string& path, double value) const;
  void choose_tables();
  std::optional<Time> measured_time(const Kernel& kernel, int kind) const;
  std::optional<Time> measured_time(Collective operation, Bytes size,
                                    const std::vector<int>& members) const;

  Platform platform_;
  std::vector<GpuSpec> kinds_;
  std::vector<std::map<std::string, const MeasuredTableSpec*>> tables_;  // by kind; by class
  std::vector<Place> places_;
  std::vector<std::uint32_t> nic_base_;  // by node: index of its first NIC link
  std::vector<std::int64_t> numa_base_;  // by node: its first socket link; -1: one socket
  std::vector<LinkSpec> links_;
  std::vector<double> quality_;  // by link: its bandwidth over what the files say; empty: all 1
  Fabric fabric_;
  struct Use {
    const std::string* file;
    const char* path;
    bool operator==(const Use&) const = default;
  };
  struct KnownShape {
    std::vector<int> members;
    bool all_to_all = false;
    GroupShape shape;
  };
  mutable KnownShape last_shape_;  // a group is asked for with several sizes in a row
  mutable LinkLoad load_;          // room to add up in
  mutable std::vector<std::uint32_t> path_;
  mutable std::vector<Use> uses_;          // few; each pair once
  mutable std::vector<Assumption> notes_;  // figures used outside what they were given for
};

// The assumed leaves of a file's tree (to_node of its struct) at `prefix` or below.
void collect_assumptions(const Node& tree, const std::string& prefix, const std::string& file,
                         std::vector<Assumption>& out);

}  // namespace orrery
