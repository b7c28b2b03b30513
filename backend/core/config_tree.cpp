#include "backend/core/config_tree.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "backend/core/text.hpp"

namespace orrery {

SourceText::SourceText(std::string n, std::string t) : name(std::move(n)), text(std::move(t)) {
  starts_.push_back(0);
  for (std::size_t i = 0; i < text.size(); ++i)
    if (text[i] == '\n') starts_.push_back(i + 1);
}

int SourceText::line_count() const { return static_cast<int>(starts_.size()); }

std::string_view SourceText::line(int number) const {
  if (number < 1 || number > line_count()) return {};
  const std::size_t start = starts_[static_cast<std::size_t>(number - 1)];
  const std::size_t end = text.find('\n', start);
  std::string_view found =
      std::string_view(text).substr(start, end == std::string::npos ? end : end - start);
  if (!found.empty() && found.back() == '\r') found.remove_suffix(1);
  return found;
}

const Node* Node::find(std::string_view name) const {
  if (!is_map()) return nullptr;
  for (const Node& child : children)
    if (child.key == name) return &child;
  return nullptr;
}

Node* Node::find(std::string_view name) {
  return const_cast<Node*>(static_cast<const Node*>(this)->find(name));
}

std::vector<std::string> Node::keys() const {
  std::vector<std::string> names;
  if (is_map())
    for (const Node& child : children) names.push_back(child.key);
  return names;
}

const Mark& Node::where() const {
  if (key_mark) return key_mark;
  // A block mapping starts where its first key does.
  if (is_map() && !children.empty()) {
    const Mark& first = children.front().key_mark;
    if (!mark || (first.line == mark.line && first.column == mark.column)) return first;
  }
  return mark;
}

std::size_t Node::count() const {
  std::size_t total = 1;
  for (const Node& child : children) total += child.count();
  return total;
}

Node Node::scalar(std::string text, bool quoted) {
  Node node;
  node.kind = Kind::scalar;
  node.text = std::move(text);
  node.quoted = quoted;
  return node;
}

Node Node::list(std::vector<Node> items) {
  Node node;
  node.kind = Kind::list;
  node.children = std::move(items);
  return node;
}

Node Node::map() {
  Node node;
  node.kind = Kind::map;
  return node;
}

void Node::add(std::string name, Node value) {
  value.key = std::move(name);
  children.push_back(std::move(value));
}

std::string kind_text(const Node& node) {
  if (node.is_null()) return "nothing";
  if (node.is_list()) return "a list";
  if (node.is_map()) return "a mapping";
  constexpr std::size_t longest = 40;
  std::string text = node.text;
  if (text.size() > longest) {
    std::size_t cut = longest;
    while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) --cut;
    text = text.substr(0, cut) + "...";
  }
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c >= 0 && c < ' '; }, ' ');
  return node.quoted ? fmt::format("the text '{}'", text) : fmt::format("'{}'", text);
}

std::string join_path(std::string_view path, std::string_view key) {
  return path.empty() ? std::string(key) : fmt::format("{}.{}", path, key);
}

std::string join_path(std::string_view path, std::size_t index) {
  return fmt::format("{}[{}]", path, index);
}

const Node* find_nearest(const Node& root, std::string_view path) {
  const Node* node = &root;
  for (const PathPiece& piece : split_path(path)) {
    const Node* next = nullptr;
    if (!piece.is_index)
      next = node->find(piece.key);
    else if (node->is_list() && piece.index < node->children.size())
      next = &node->children[piece.index];
    if (next == nullptr) break;
    node = next;
  }
  return node;
}

std::vector<PathPiece> split_path(std::string_view path) {
  std::vector<PathPiece> pieces;
  std::size_t at = 0;
  while (at < path.size()) {
    PathPiece piece;
    piece.is_index = path[at] == '[';
    if (piece.is_index) {
      const std::size_t end = path.find(']', at);
      if (end == std::string_view::npos || end == at + 1 || end - at > 8) return {};
      for (std::size_t i = at + 1; i < end; ++i) {
        if (path[i] < '0' || path[i] > '9') return {};
        piece.index = piece.index * 10 + static_cast<std::size_t>(path[i] - '0');
      }
      piece.at = at;
      piece.length = end + 1 - at;
    } else {
      if (!pieces.empty() && path[at] != '.') return {};
      const std::size_t start = pieces.empty() ? at : at + 1;
      const std::size_t end = std::min(path.find_first_of(".[", start), path.size());
      if (end == start) return {};
      piece.key = std::string(path.substr(start, end - start));
      piece.at = start;
      piece.length = end - start;
    }
    at = piece.at + piece.length;
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

namespace {

// May be written without quotes: YAML reads it back as the same plain scalar.
bool is_plain(const std::string& text) {
  if (text.empty() || text.size() > 200) return false;
  const auto letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  const char first = text.front();
  const bool starts = letter(first) || digit(first) || first == '.' || first == '/' ||
                      first == '+' ||
                      (first == '-' && text.size() > 1 && (digit(text[1]) || text[1] == '.'));
  const bool safe = std::all_of(text.begin(), text.end(), [&](char c) {
    return letter(c) || digit(c) || c == '.' || c == '/' || c == '+' || c == '-' || c == ' ';
  });
  return starts && safe && text.back() != ' ' && text.find("...") == std::string::npos;
}

// A string that YAML would take for something else when plain.
bool looks_special(const std::string& text) {
  static const std::vector<std::string> words{
      "null", "Null", "NULL", "true", "True", "TRUE", "false", "False", "FALSE", "yes", "Yes",
      "no",   "No",   "on",   "On",   "off",  "Off",  "y",     "n",     "Y",     "N"};
  return std::find(words.begin(), words.end(), text) != words.end() ||
         (text[0] >= '0' && text[0] <= '9') || text[0] == '.' || text[0] == '+' || text[0] == '-';
}

std::string quote(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\')
      out += fmt::format("\\{}", c);
    else if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else if ((c >= 0 && c < ' ') || c == 0x7F)
      out += fmt::format("\\x{:02x}", static_cast<int>(c));
    else
      out += c;
  }
  return out + "\"";
}

std::string inline_text(const Node& node) {
  if (node.is_null()) return "null";
  const bool plain = is_plain(node.text) && !(node.quoted && looks_special(node.text));
  return plain ? node.text : quote(node.text);
}

void write(const Node& node, int indent, std::string& out);

// Writes what follows "key:" or "-": the rest of the line, or an indented block.
void write_value(const Node& node, int indent, bool in_list, std::string& out) {
  const bool scalars = std::all_of(node.children.begin(), node.children.end(),
                                   [](const Node& n) { return n.is_scalar() || n.is_null(); });
  if (node.is_null() || node.is_scalar()) {
    out += fmt::format(" {}\n", inline_text(node));
  } else if (node.children.empty()) {
    out += node.is_list() ? " []\n" : " {}\n";
  } else if (node.is_list() && scalars) {
    std::vector<std::string> texts;
    for (const Node& child : node.children) texts.push_back(inline_text(child));
    out += fmt::format(" [{}]\n", join(texts, ", "));
  } else if (in_list && node.is_map()) {
    std::string block;
    write(node, indent + 2, block);
    out +=
        block.substr(static_cast<std::size_t>(indent) + 1);  // the first key shares the dash's line
  } else {
    out += "\n";
    write(node, indent + 2, out);
  }
}

void write(const Node& node, int indent, std::string& out) {
  const std::string margin(static_cast<std::size_t>(indent), ' ');
  for (const Node& child : node.children) {
    if (node.is_list()) {
      out += margin + "-";
      write_value(child, indent, true, out);
    } else {
      const Node key = Node::scalar(child.key, true);
      out += fmt::format("{}{}:", margin, inline_text(key));
      write_value(child, indent, false, out);
    }
  }
}

}  // namespace

std::string to_yaml(const Node& node) {
  std::string out;
  if (node.children.empty() || node.is_scalar()) {
    write_value(node, 0, false, out);
    return out.substr(1);
  }
  write(node, 0, out);
  return out;
}

}  // namespace orrery
