// Which assumed numbers a run was made from.
#include <algorithm>

#include "backend/core/text.hpp"
#include "platforms/cluster.hpp"

namespace orrery {

namespace {

// `path` is `prefix` or lies below it.
bool below(const std::string& path, const std::string& prefix) {
  if (prefix.empty() || path == prefix) return true;
  return path.starts_with(prefix) && (path[prefix.size()] == '.' || path[prefix.size()] == '[');
}

void walk(const Node& node, const std::string& path, const std::string& prefix,
          const std::string& file, std::vector<Assumption>& out) {
  const Node* value = node.is_map() ? node.find("value") : nullptr;
  const Node* source = node.is_map() ? node.find("source") : nullptr;
  if (value != nullptr && source != nullptr) {
    const Node *kind = source->find("kind"), *note = source->find("note");
    if (below(path, prefix) && kind != nullptr && kind->text == orrery::name(SourceKind::assumed))
      out.push_back({file + ": " + path, value->text, note != nullptr ? note->text : ""});
    return;
  }
  for (std::size_t i = 0; i < node.children.size(); ++i) {
    const Node& child = node.children[i];
    walk(child, node.is_list() ? join_path(path, i) : join_path(path, child.key), prefix, file,
         out);
  }
}

}  // namespace

void collect_assumptions(const Node& tree, const std::string& prefix, const std::string& file,
                         std::vector<Assumption>& out) {
  walk(tree, "", prefix, file, out);
}

std::vector<Assumption> Cluster::assumptions() const {
  std::vector<Assumption> out = notes_;
  const auto collect = [&](const auto& spec, const char* folder) {
    Node tree;
    for (const Use& use : uses_) {
      if (use.file != &spec.name) continue;
      if (tree.is_null()) tree = to_node(spec);
      collect_assumptions(tree, use.path, std::string(folder) + "/" + spec.name + ".yaml", out);
    }
  };
  for (const GpuSpec& gpu : kinds_) collect(gpu, "gpus");
  for (const Platform::Part& part : platform_.parts) collect(part.node, "nodes");
  for (const CurveSpec& curve : platform_.curves) collect(curve, "curves");
  collect(platform_.cluster, "clusters");
  collect(platform_.stack, "stacks");
  if (platform_.stack.name == "generic")
    out.push_back(
        {"platform.stack", "generic",
         "no software stack was named; its own constants would lower the error of step times"});
  const auto before = [](const Assumption& a, const Assumption& b) { return a.path < b.path; };
  std::sort(out.begin(), out.end(), before);
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

}  // namespace orrery
