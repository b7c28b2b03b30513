#include "scenarios/cli/numbers.hpp"

#include <fmt/core.h>

#include "backend/core/table.hpp"
#include "backend/core/text.hpp"

namespace orrery::cli {

namespace {

std::string text_at(const Node& map, const char* key) {
  const Node* found = map.find(key);
  return found != nullptr && found->is_scalar() ? found->text : "";
}

Source source_of(const Node& node) {
  Source source;
  for (const SourceKind kind :
       {SourceKind::datasheet, SourceKind::measured, SourceKind::fitted, SourceKind::assumed})
    if (text_at(node, "kind") == name(kind)) source.kind = kind;
  source.document = text_at(node, "document");
  source.table = text_at(node, "table");
  source.date = text_at(node, "date");
  source.device = text_at(node, "device");
  source.command = text_at(node, "command");
  source.note = text_at(node, "note");
  if (const Node* cases = node.find("cases"); cases != nullptr)
    for (const Node& one : cases->children) source.cases.push_back(one.text);
  if (const std::string residual = text_at(node, "residual"); !residual.empty())
    source.residual = parse_number(residual).value;
  return source;
}

// Leaves are {value, source} mappings.
void collect(const Node& node, const std::string& path, std::vector<SourcedNumber>& out) {
  const Node* value = node.is_map() ? node.find("value") : nullptr;
  const Node* source = node.is_map() ? node.find("source") : nullptr;
  if (value != nullptr && source != nullptr) {
    out.push_back({path, value->text, source_of(*source)});
    return;
  }
  for (std::size_t i = 0; i < node.children.size(); ++i) {
    const Node& child = node.children[i];
    collect(child, node.is_list() ? join_path(path, i) : join_path(path, child.key), out);
  }
}

Node tree_of(PlatformKind kind, const std::string& name, const PlatformFolder& folder) {
  switch (kind) {
    case PlatformKind::gpu:
      return to_node(folder.gpu(name));
    case PlatformKind::node:
      return to_node(folder.node(name));
    case PlatformKind::cluster:
      return to_node(folder.cluster(name));
    case PlatformKind::stack:
      return to_node(folder.stack(name));
    case PlatformKind::curve:
      return to_node(folder.curve(name));
  }
  return {};
}

}  // namespace

const std::vector<PlatformKind>& platform_kinds() {
  static const std::vector<PlatformKind> all{PlatformKind::gpu, PlatformKind::node,
                                             PlatformKind::cluster, PlatformKind::stack,
                                             PlatformKind::curve};
  return all;
}

std::vector<SourcedNumber> sourced_numbers(PlatformKind kind, const std::string& name,
                                           const std::string& data_root) {
  std::vector<SourcedNumber> out;
  collect(tree_of(kind, name, PlatformFolder(data_root)), "", out);
  return out;
}

std::string source_text(const Source& s) {
  switch (s.kind) {
    case SourceKind::datasheet:
      return fmt::format("datasheet: {}; {}", s.document, s.table);
    case SourceKind::measured:
      return fmt::format("measured {} on {} by {}", s.date, s.device, s.command);
    case SourceKind::fitted:
      return fmt::format("fitted, {} off, on {}", format_percent(s.residual.value_or(0)),
                         join(s.cases, "; "));
    case SourceKind::assumed:
      return s.note.empty() ? "assumed" : "assumed: " + s.note;
  }
  return "";
}

}  // namespace orrery::cli
