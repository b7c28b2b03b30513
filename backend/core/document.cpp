#include "backend/core/document.hpp"

#include <fmt/format.h>

#include "backend/core/config_yaml.hpp"
#include "backend/core/text.hpp"

namespace orrery {

namespace {

// What a --set may run into: thrown inside set() and kept as a problem.
struct BadSetting {
  std::size_t at;
  std::size_t length;
  std::string text;
  std::string suggestion;
};

Mark setting_mark(const std::shared_ptr<const SourceText>& source, std::size_t at,
                  std::size_t length) {
  const auto column = code_points(std::string_view(source->text).substr(0, at)) + 1;
  const auto width = code_points(std::string_view(source->text).substr(at, length));
  return {source, 1, static_cast<int>(column), static_cast<int>(std::max<std::size_t>(1, width))};
}

// The child of `node` that the piece names, created if it may be.
Node& descend(Node& node, const PathPiece& piece, std::string_view done,
              const std::shared_ptr<const SourceText>& source) {
  const Mark mark = setting_mark(source, piece.at, piece.length);
  const std::string parent = done.empty() ? "the document" : fmt::format("'{}'", done);
  if (node.is_null()) {
    node.kind = piece.is_index ? Node::Kind::list : Node::Kind::map;
    if (!node.mark) node.mark = mark;
  }
  if (piece.is_index) {
    if (!node.is_list())
      throw BadSetting{piece.at, piece.length,
                       fmt::format("{} is {}, not a list", parent, kind_text(node)), ""};
    if (piece.index > node.children.size())
      throw BadSetting{piece.at, piece.length,
                       fmt::format("index {} of {}, which has {} items", piece.index, parent,
                                   node.children.size()),
                       ""};
    if (piece.index == node.children.size()) {
      node.children.emplace_back();
      node.children.back().mark = mark;
    }
    return node.children[piece.index];
  }
  if (!node.is_map())
    throw BadSetting{piece.at, piece.length,
                     fmt::format("{} is {}, not a mapping", parent, kind_text(node)), ""};
  if (Node* found = node.find(piece.key)) return *found;
  Node fresh;
  fresh.key_mark = mark;
  fresh.mark = mark;
  node.add(piece.key, std::move(fresh));
  return node.children.back();
}

}  // namespace

Document Document::parse_file(const std::string& path) {
  return parse_text(read_file(path, detail::max_bytes), path);
}

Document Document::parse_text(std::string text, std::string file_name) {
  constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";
  if (text.compare(0, byte_order_mark.size(), byte_order_mark) == 0)
    text.erase(0, byte_order_mark.size());
  Document document;
  const auto source = std::make_shared<const SourceText>(std::move(file_name), std::move(text));
  document.root_ = detail::parse_yaml(source, 0, document.problems_);
  if (!document.root_.mark) document.root_.mark = {source, 1, 1, 1};
  return document;
}

void Document::set(const std::string& assignment) {
  const auto source = std::make_shared<const SourceText>("--set", assignment);
  try {
    const std::size_t equals = assignment.find('=');
    const std::string path = assignment.substr(0, equals);
    const std::vector<PathPiece> pieces = split_path(path);
    if (path.find('\n') != std::string::npos || invalid_utf8(path) != std::string::npos ||
        pieces.empty())
      throw BadSetting{0, std::max<std::size_t>(1, path.size()), "not a path of keys",
                       "write it as in parallel.tensor=8"};
    if (equals == std::string::npos)
      throw BadSetting{0, path.size(), "a setting needs a value",
                       fmt::format("write {}=VALUE", path)};
    if (pieces.size() > static_cast<std::size_t>(detail::max_depth))
      throw BadSetting{0, path.size(),
                       fmt::format("nested deeper than {} levels", detail::max_depth), ""};
    std::vector<ConfigMessage> found;
    Node value = detail::parse_yaml(source, equals + 1, found);
    problems_.insert(problems_.end(), found.begin(), found.end());
    if (!value.mark) value.mark = setting_mark(source, 0, path.size());
    Node changed = root_;  // an error on the way leaves the document as it was
    Node* node = &changed;
    for (const PathPiece& piece : pieces)
      node = &descend(
          *node, piece,
          std::string_view(path).substr(0, piece.at == 0 ? 0 : piece.at - (piece.is_index ? 0 : 1)),
          source);
    value.key = node->key;
    value.key_mark =
        node->key.empty() ? Mark{} : setting_mark(source, pieces.back().at, pieces.back().length);
    *node = std::move(value);
    root_ = std::move(changed);
  } catch (const BadSetting& bad) {
    problems_.push_back(
        message_at(setting_mark(source, bad.at, bad.length), bad.text, bad.suggestion));
  } catch (const ConfigError& error) {
    problems_.insert(problems_.end(), error.messages.begin(), error.messages.end());
  }
}

}  // namespace orrery
