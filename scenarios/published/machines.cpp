#include "scenarios/published/machines.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "backend/core/table.hpp"
#include "scenarios/published/not_scored.hpp"

namespace orrery {

namespace {

// "NVL72" is a node of 72 GPUs; 0 for any other text.
std::int64_t domain_size(const std::string& text) {
  if (!text.starts_with("NVL") || text.size() < 4 || text.size() > 8) return 0;
  if (text.find_first_not_of("0123456789", 3) != std::string::npos) return 0;
  return std::stoll(text.substr(3));
}

// GPUs of a node as the case tells; 0 when it does not.
std::int64_t gpus_per_node(const MeasuredCase& c) {
  if (c.gpus_per_node.value_or(0) > 0) return *c.gpus_per_node;
  return domain_size(word(c.scale_up_domain));
}

// The same nodes with ports of another bandwidth.
std::shared_ptr<const Platform> with_ports(Platform platform, const NetworkAlias& network,
                                           std::vector<Assumption>& notes) {
  for (Platform::Part& part : platform.parts) {
    NicsSpec& nics = *part.node.nics;
    nics.bandwidth.value = *network.per_node / static_cast<double>(nics.count.value);
    note(notes, "nics.bandwidth",
         fmt::format("{} x {}", nics.count.value, format_bandwidth(nics.bandwidth.value)),
         fmt::format("ports of {} with this rate; all else as described there", part.node.name));
  }
  platform.curves.clear();  // measured over the ports that were there
  return std::make_shared<const Platform>(std::move(platform));
}

}  // namespace

void note(std::vector<Assumption>& notes, std::string path, std::string value, std::string reason) {
  Assumption fresh{std::move(path), std::move(value), std::move(reason)};
  if (std::find(notes.begin(), notes.end(), fresh) == notes.end())
    notes.push_back(std::move(fresh));
}

Machines::Machines(std::string data_root, const AliasTable& aliases)
    : folder_(std::move(data_root)), aliases_(aliases) {}

std::string Machines::gpu_name(const MeasuredCase& c, std::vector<Assumption>& notes) const {
  const std::string text = word(c.gpu);
  if (text.empty() || text.starts_with("not stated")) throw NotScored("the GPU is not stated");
  if (const Alias* alias = find_alias(aliases_.gpu, text)) {
    if (!alias->assumption.empty()) note(notes, "gpu", alias->means, alias->assumption);
    return alias->means;
  }
  const auto [at, fresh] = gpu_names_.emplace(text, "");
  if (fresh)
    at->second = std::filesystem::path(folder_.find(PlatformKind::gpu, text)).stem().string();
  if (at->second.empty()) throw NotScored(fmt::format("no platform describes the GPU '{}'", text));
  return at->second;
}

const GpuSpec& Machines::gpu(const std::string& name) const {
  const auto found = gpus_.find(name);
  return found != gpus_.end() ? found->second
                              : gpus_.emplace(name, folder_.gpu(name)).first->second;
}

const StackSpec& Machines::stack(const std::string& name) const {
  const auto found = stacks_.find(name);
  return found != stacks_.end() ? found->second
                                : stacks_.emplace(name, folder_.stack(name)).first->second;
}

std::string Machines::stack_name(const MeasuredFile& file, const MeasuredCase& c,
                                 std::vector<Assumption>& notes) const {
  const std::vector<std::string> known = folder_.names(PlatformKind::stack);
  std::string why = "no software was named";
  const bool eager = !c.compile.value_or(true) && !file.repo.empty();
  for (const std::string& text :
       {word(c.stack), word(c.framework), eager ? file.repo + " without compile" : "", file.repo}) {
    if (text.empty()) continue;
    if (std::find(known.begin(), known.end(), text) != known.end()) return text;
    const Alias* alias = find_alias(aliases_.stack, text);
    if (alias == nullptr) continue;
    if (alias->means == "generic") {  // what follows may know more
      why = alias->assumption;
      continue;
    }
    if (!alias->assumption.empty()) note(notes, "stack", alias->means, alias->assumption);
    return alias->means;
  }
  note(notes, "stack", "generic", why);
  return "generic";
}

std::shared_ptr<const Platform> Machines::read(const std::string& cluster,
                                               const std::string& stack) const {
  std::shared_ptr<const Platform>& found = platforms_[cluster + " " + stack];
  if (!found) found = std::make_shared<const Platform>(read_platform(folder_, cluster, stack));
  return found;
}

std::int64_t Machines::nodes_of(const std::string& cluster, const std::string& stack) const {
  return read(cluster, stack)->parts.front().count;
}

const MachineAlias* Machines::row_of(const std::string& gpu, std::int64_t per_node,
                                     const std::string& interconnect) const {
  for (const MachineAlias& row : aliases_.machines)
    if (row.gpu == gpu && (per_node == 0 || row.gpus_per_node == per_node) &&
        (interconnect.empty() || row.interconnect == interconnect))
      return &row;
  return nullptr;
}

std::shared_ptr<const Platform> Machines::grown(const MachineAlias& row, const std::string& stack,
                                                std::int64_t nodes,
                                                std::vector<Assumption>& notes) const {
  for (const std::string& cluster : row.clusters)
    if (nodes_of(cluster, stack) >= nodes) return read(cluster, stack);
  Platform larger = *read(row.clusters.back(), stack);
  note(notes, "cluster", larger.cluster.name,
       fmt::format("with {} nodes in place of {}", nodes, larger.parts.front().count));
  larger.parts.front().count = static_cast<int>(nodes);
  larger.cluster.parts.front().count.value = nodes;
  return std::make_shared<const Platform>(std::move(larger));
}

std::shared_ptr<const Platform> Machines::platform(const MeasuredFile& file, const MeasuredCase& c,
                                                   bool network_stated,
                                                   std::vector<Assumption>& notes) const {
  const std::string gpu = gpu_name(c, notes), stack = stack_name(file, c, notes);
  const std::int64_t per_node = gpus_per_node(c);
  const MachineAlias* row = row_of(gpu, per_node, "");
  if (row == nullptr)
    throw NotScored(per_node > 0 ? fmt::format("no cluster has nodes of {} {}", per_node, gpu)
                                 : fmt::format("no cluster has GPUs of the kind {}", gpu));
  const std::int64_t nodes = std::max(
      c.nodes.value_or(1), (c.gpus.value_or(1) + row->gpus_per_node - 1) / row->gpus_per_node);
  if (nodes == 1) return grown(*row, stack, nodes, notes);

  const std::string text = word(c.interconnect);
  const NetworkAlias* network = find_alias(aliases_.interconnect, text);
  if (network == nullptr) throw NotScored(fmt::format("interconnect '{}' has no alias", text));
  const bool stated = network->means != "unstated";
  if (!stated && network_stated) throw NotScored("the network between the nodes is not stated");
  const MachineAlias* exact = stated ? row_of(gpu, per_node, network->means) : row;
  if (exact == nullptr && !network->per_node)
    throw NotScored(fmt::format("no cluster of {} has the interconnect '{}'", gpu, text));
  if (!network->assumption.empty() && (exact == nullptr || !network->per_node))
    note(notes, "interconnect", stated ? network->means : row->interconnect, network->assumption);
  auto found = grown(exact != nullptr ? *exact : *row, stack, nodes, notes);
  if (!found->parts.front().node.nics)
    throw NotScored(fmt::format("the nodes of {} have no described network", found->cluster.name));
  return exact != nullptr ? found : with_ports(*found, *network, notes);
}

}  // namespace orrery
