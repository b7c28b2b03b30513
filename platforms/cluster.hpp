// A simulated cluster made from platform files: the first N GPUs of its nodes, filled in order.
//
// Where a GPU has a measured table for a kernel's class, or the cluster one for a collective on a
// group inside a node, the table answers; formulas answer the rest. Tables are those measured with
// as many busy devices as the fullest node has GPUs in use.
//
// Links: every GPU has a scale-up port (out, in); every NIC has a port (out, in). A transfer inside
// a node takes [scale-up out, scale-up in], any other [NIC out, NIC in] of the two GPUs' own NICs;
// GPU i of a node uses NIC i * nics / gpus, so rails join equal places. The fabric itself never
// binds (oversubscription 1).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "platforms/collective_time.hpp"
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
  Time latency(int from, int to) const override;
  Time message_time(int from, int to, Bytes size) const override;
  BytesPerSecond bandwidth(int from, int to) const override;
  // Members are GPUs, in any order and each once.
  CollectivePlan plan(Collective kind, Bytes size, const std::vector<int>& members) const override;
  const std::vector<LinkSpec>& links() const override { return links_; }
  void route(int from, int to, std::vector<std::uint32_t>& path) const override;

  const Platform& platform() const { return platform_; }
  const GpuSpec& gpu(int gpu) const { return kinds_[static_cast<std::size_t>(place(gpu).kind)]; }
  int node(int gpu) const { return place(gpu).node; }
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
  Seconds network_latency(const Place& p) const;
  GroupShape shape(const std::vector<int>& members) const;
  void make_links();
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
  std::vector<LinkSpec> links_;
  struct Use {
    const std::string* file;
    const char* path;
    bool operator==(const Use&) const = default;
  };
  mutable std::vector<Use> uses_;          // few; each pair once
  mutable std::vector<Assumption> notes_;  // figures used outside what they were given for
};

// The assumed leaves of a file's tree (to_node of its struct) at `prefix` or below.
void collect_assumptions(const Node& tree, const std::string& prefix, const std::string& file,
                         std::vector<Assumption>& out);

}  // namespace orrery
