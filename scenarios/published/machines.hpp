// From the words of a measured case to a platform: its GPU, the cluster of such nodes, the
// software.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "platforms/cluster.hpp"
#include "platforms/platform.hpp"
#include "scenarios/published/aliases.hpp"
#include "scenarios/published/measured_case.hpp"

namespace orrery {

class Machines {
 public:
  // Both outlive it.
  Machines(std::string data_root, const AliasTable& aliases);

  // Name of the case's GPU; notes what was assumed. Throws NotScored.
  std::string gpu_name(const MeasuredCase& c, std::vector<Assumption>& notes) const;
  const GpuSpec& gpu(const std::string& name) const;

  // Name of the stack: the case's or file's own, else by framework, else by the repository of the
  // source; generic where nothing else is known, with a note.
  std::string stack_name(const MeasuredFile& file, const MeasuredCase& c,
                         std::vector<Assumption>& notes) const;
  const StackSpec& stack(const std::string& name) const;

  // A cluster with at least the case's GPUs: the smallest of the aliases' clusters, else the
  // largest with more nodes, with a note. Between nodes it has the case's interconnect: that of a
  // cluster, or ports of the rate that the aliases tell. One that is not stated is the node's usual
  // one, with a note, unless `network_stated` asks for more. Throws NotScored.
  std::shared_ptr<const Platform> platform(const MeasuredFile& file, const MeasuredCase& c,
                                           bool network_stated,
                                           std::vector<Assumption>& notes) const;

 private:
  std::shared_ptr<const Platform> read(const std::string& cluster, const std::string& stack) const;
  // The first row of `machines` for this GPU; 0 and "" stand for any. Null when there is none.
  const MachineAlias* row_of(const std::string& gpu, std::int64_t per_node,
                             const std::string& interconnect) const;
  // The smallest of the row's clusters with so many nodes, else its last one with more.
  std::shared_ptr<const Platform> grown(const MachineAlias& row, const std::string& stack,
                                        std::int64_t nodes, std::vector<Assumption>& notes) const;
  std::int64_t nodes_of(const std::string& cluster, const std::string& stack) const;

  PlatformFolder folder_;
  const AliasTable& aliases_;
  // Names looked up and files read so far.
  mutable std::map<std::string, std::string> gpu_names_;
  mutable std::map<std::string, GpuSpec> gpus_;
  mutable std::map<std::string, StackSpec> stacks_;
  mutable std::map<std::string, std::shared_ptr<const Platform>> platforms_;
};

// Adds an assumption once.
void note(std::vector<Assumption>& notes, std::string path, std::string value, std::string reason);

}  // namespace orrery
