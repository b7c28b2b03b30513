#include "backend/core/config_yaml.hpp"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "backend/core/text.hpp"

namespace orrery::detail {

namespace {

using Source = std::shared_ptr<const SourceText>;

// Mark of the bytes [offset, offset + bytes) of a line.
Mark mark_bytes(const Source& source, int line, std::size_t offset, std::size_t bytes) {
  const std::string_view text = source->line(line);
  offset = std::min(offset, text.size());
  bytes = std::min(bytes, text.size() - offset);
  const auto column = code_points(text.substr(0, offset)) + 1;
  const auto length = std::max<std::size_t>(1, code_points(text.substr(offset, bytes)));
  return {source, line, static_cast<int>(column), static_cast<int>(length)};
}

// yaml-cpp counts lines and bytes of a line from 0; some errors lie one past the last line.
Mark mark_of(const Source& source, const YAML::Mark& at, std::size_t bytes) {
  const int line = std::clamp(at.line + 1, 1, source->line_count());
  const bool outside = at.line + 1 > source->line_count();
  return mark_bytes(
      source, line,
      outside ? source->line(line).size() : static_cast<std::size_t>(std::max(at.column, 0)),
      bytes);
}

// Bytes that a quoted scalar takes on its first line, quotes included.
std::size_t quoted_size(std::string_view rest) {
  const char quote = rest.empty() ? '\0' : rest[0];
  if (quote != '"' && quote != '\'') return 1;
  for (std::size_t i = 1; i < rest.size(); ++i) {
    if (quote == '"' && rest[i] == '\\')
      ++i;
    else if (rest[i] == quote)
      return i + 1;
  }
  return rest.size();
}

std::size_t scalar_size(const Source& source, const YAML::Mark& at, const std::string& value,
                        bool quoted) {
  std::string_view rest = source->line(at.line + 1);
  rest.remove_prefix(std::min(rest.size(), static_cast<std::size_t>(std::max(at.column, 0))));
  if (quoted) return quoted_size(rest);
  return std::max<std::size_t>(1, std::min(value.size(), trim(rest).size()));
}

// Builds the tree from parse events. Containers under construction form a stack.
class Builder : public YAML::EventHandler {
 public:
  Builder(Source source, std::vector<ConfigMessage>& problems)
      : source_(std::move(source)), problems_(problems) {}

  Node take() { return std::move(root_); }
  // Where the innermost list or mapping that is still open starts; nowhere without one.
  Mark innermost() const { return open_.empty() ? Mark{} : open_.back().node.mark; }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& at, YAML::anchor_t anchor) override {
    Node node;
    node.mark = mark_of(source_, at, 1);
    if (trim(source_->line(node.mark.line)).substr(0, 1) != "" && source_text_at(at, "null"))
      node.mark.length = 4;
    place(std::move(node), anchor);
  }

  void OnScalar(const YAML::Mark& at, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    Node node = Node::scalar(value, tag != "?");
    node.mark = mark_of(source_, at, scalar_size(source_, at, value, node.quoted));
    check_tag(tag, node.mark);
    place(std::move(node), anchor);
  }

  void OnAlias(const YAML::Mark& at, YAML::anchor_t anchor) override {
    const Mark mark = mark_of(source_, at, 1);
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) fail(mark, "an alias cannot lie inside what it names");
    Node copy = found->second;
    if (depth_of(copy) + static_cast<int>(open_.size()) > max_depth) too_deep(mark);
    count(copy.count(), mark);
    copy.key.clear();
    copy.key_mark = {};
    place(std::move(copy), 0, false);
  }

  void OnSequenceStart(const YAML::Mark& at, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    start(Node::list(), at, tag, anchor);
  }
  void OnSequenceEnd() override { finish(); }
  void OnMapStart(const YAML::Mark& at, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    start(Node::map(), at, tag, anchor);
  }
  void OnMapEnd() override { finish(); }

 private:
  struct Open {
    Node node;
    YAML::anchor_t anchor = 0;
    bool has_key = false;
    bool drop = false;  // the value of a refused key
    std::string key;
    Mark key_mark;
    std::map<std::string, int> lines;  // of the keys so far
  };

  [[noreturn]] void fail(const Mark& at, std::string text, std::string suggestion = "") const {
    std::vector<ConfigMessage> all = problems_;
    all.push_back(message_at(at, std::move(text), std::move(suggestion)));
    throw ConfigError(std::move(all));
  }
  [[noreturn]] void too_deep(const Mark& at) const {
    fail(at, fmt::format("nested deeper than {} levels", max_depth));
  }

  bool source_text_at(const YAML::Mark& at, std::string_view text) const {
    const std::string_view line = source_->line(at.line + 1);
    const auto column = static_cast<std::size_t>(std::max(at.column, 0));
    return column < line.size() && line.substr(column, text.size()) == text;
  }

  static int depth_of(const Node& node) {
    int deepest = 0;
    for (const Node& child : node.children) deepest = std::max(deepest, depth_of(child));
    return deepest + 1;
  }

  void count(std::size_t added, const Mark& at) {
    nodes_ += added;
    if (nodes_ > max_nodes)
      fail(at, fmt::format("the document has more than {} values", max_nodes));
  }

  void check_tag(const std::string& tag, const Mark& at) {
    if (tag.empty() || tag == "?" || tag == "!") return;
    problems_.push_back(message_at(at, "tags such as '!!str' are not used here",
                                   "quote a value to make it a string"));
  }

  void start(Node node, const YAML::Mark& at, const std::string& tag, YAML::anchor_t anchor) {
    node.mark = mark_of(source_, at, 1);
    check_tag(tag, node.mark);
    refuse_key(node.mark);
    if (static_cast<int>(open_.size()) >= max_depth) too_deep(node.mark);
    open_.push_back({std::move(node), anchor, false, false, "", {}, {}});
  }

  void finish() {
    Open done = std::move(open_.back());
    open_.pop_back();
    place(std::move(done.node), done.anchor);
  }

  // A container where a key belongs.
  void refuse_key(const Mark& at) const {
    if (!open_.empty() && open_.back().node.is_map() && !open_.back().has_key)
      fail(at, "a list or mapping stands where a key belongs",
           "is a bracket not closed, or a key not quoted?");
  }

  void take_key(Node key) {
    Open& map = open_.back();
    if (!key.is_scalar()) fail(key.mark, "a key must be a plain string");
    const auto [first, fresh] = map.lines.emplace(key.text, key.mark.line);
    map.drop = !fresh || (key.text == "<<" && !key.quoted);
    if (!fresh)
      problems_.push_back(message_at(key.mark,
                                     fmt::format("duplicate key '{}'", describe_key(key.text)),
                                     fmt::format("first given in line {}", first->second)));
    else if (map.drop)
      problems_.push_back(
          message_at(key.mark, "merge keys ('<<') are not supported", "write the keys out"));
    map.key = std::move(key.text);
    map.key_mark = key.mark;
    map.has_key = true;
  }

  static std::string describe_key(const std::string& key) {
    const std::string shown = kind_text(Node::scalar(key));
    return shown.substr(1, shown.size() - 2);
  }

  void place(Node node, YAML::anchor_t anchor, bool counted = true) {
    if (counted) count(1, node.mark);
    const bool is_key = !open_.empty() && open_.back().node.is_map() && !open_.back().has_key;
    if (anchor != 0 && !is_key) {
      count(node.count(), node.mark);  // the copy kept for aliases
      anchors_[anchor] = node;
    }
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    if (is_key) return take_key(std::move(node));
    Open& parent = open_.back();
    if (parent.node.is_map()) {
      node.key = std::move(parent.key);
      node.key_mark = parent.key_mark;
      parent.has_key = false;
      if (parent.drop) return;
    }
    parent.node.children.push_back(std::move(node));
  }

  Source source_;
  std::vector<ConfigMessage>& problems_;
  std::vector<Open> open_;
  std::map<YAML::anchor_t, Node> anchors_;
  std::size_t nodes_ = 0;
  Node root_;
};

// yaml-cpp quotes single bytes of what it refuses.
std::string printable(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c < ' ' || c == 0x7F; }, '?');
  return text;
}

// Position of a byte of the whole text.
Mark mark_at(const Source& source, std::size_t offset) {
  const std::string_view before = std::string_view(source->text).substr(0, offset);
  const int line = static_cast<int>(std::count(before.begin(), before.end(), '\n')) + 1;
  const std::size_t start = before.rfind('\n');
  return mark_bytes(source, line, start == std::string_view::npos ? offset : offset - start - 1, 1);
}

// The first thing wrong with the characters themselves, before YAML is considered.
void check_characters(const Source& source) {
  const std::string& text = source->text;
  if (text.size() > max_bytes)
    throw ConfigError(
        {message_at({source, 0, 0, 1}, fmt::format("larger than {} MiB", max_bytes >> 20))});
  const std::size_t bad = invalid_utf8(text);
  if (bad != std::string::npos) {
    // The line cannot be shown: it is not text.
    ConfigMessage message =
        message_at(mark_at(source, bad), "not valid UTF-8", "save the file as UTF-8");
    message.excerpt = "";
    message.column = 1;
    throw ConfigError({message});
  }
  const auto control = std::find_if(text.begin(), text.end(), [](char c) {
    return c == 0x7F || (c >= 0 && c < ' ' && c != '\n' && c != '\r' && c != '\t');
  });
  if (control == text.end()) return;
  const auto at = static_cast<std::size_t>(control - text.begin());
  ConfigMessage message = message_at(
      mark_at(source, at), fmt::format("control character 0x{:02x}", static_cast<int>(*control)),
      "remove it");
  std::replace_if(
      message.excerpt.begin(), message.excerpt.end(),
      [](char c) { return c == 0x7F || (c >= 0 && c < ' '); }, ' ');
  throw ConfigError({message});
}

}  // namespace

Node parse_yaml(const Source& source, std::size_t skip, std::vector<ConfigMessage>& problems) {
  check_characters(source);
  std::string text = source->text;
  std::fill_n(text.begin(), std::min(skip, text.size()), ' ');
  if (text.find('%') != std::string::npos && text[0] == '%') {
    throw ConfigError({message_at(mark_at(source, 0), "YAML directives ('%') are not used here",
                                  "remove the line")});
  }
  std::istringstream stream(text);
  Builder builder(source, problems);
  try {
    YAML::Parser parser(stream);
    parser.HandleNextDocument(builder);
    std::vector<ConfigMessage> ignored;
    Builder second(source, ignored);
    if (parser.HandleNextDocument(second)) {
      const Node extra = second.take();
      throw ConfigError(
          {message_at(extra.where(), "a file holds one document", "remove what follows '---'")});
    }
  } catch (const YAML::Exception& error) {
    std::vector<ConfigMessage> all = problems;
    const bool unclosed = error.msg.find("flow not found") != std::string::npos;
    const Mark opened = unclosed ? builder.innermost() : Mark{};
    all.push_back(message_at(opened ? opened : mark_of(source, error.mark, 1),
                             "YAML syntax: " + printable(error.msg), opened ? "opened here" : ""));
    throw ConfigError(std::move(all));
  }
  return builder.take();
}

}  // namespace orrery::detail
