// The parsed tree of a YAML or JSON document, in which every key and value knows its position.
//
// `Node` is a value: copies are independent. A struct may hold one to keep part of a document for a
// later reader (Fields::open, Fields::rest); positions stay, so that reader's errors show them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace orrery {

// A text that positions refer to: a file, or the argument of one --set.
struct SourceText {
  std::string name;  // "platforms/h100.yaml", "--set"
  std::string text;

  // Line `number` from 1, without its end; empty when there is none.
  std::string_view line(int number) const;
  int line_count() const;

  SourceText(std::string name, std::string text);

 private:
  std::vector<std::size_t> starts_;
};

// A run of characters within one line of a text. Lines and columns count from 1, columns in code
// points. A default Mark means "nowhere": line 0.
struct Mark {
  std::shared_ptr<const SourceText> source;
  int line = 0;
  int column = 0;
  int length = 1;

  explicit operator bool() const { return line > 0; }
};

struct Node {
  enum class Kind { null, scalar, list, map };

  Kind kind = Kind::null;
  std::string text;            // of a scalar
  bool quoted = false;         // a quoted scalar is always a string
  std::vector<Node> children;  // of a list or a map, in document order
  std::string key;             // of an entry of a map
  Mark key_mark;
  Mark mark;         // of the value
  std::string path;  // "platform.links[0]", filled in for nodes that a reader hands out

  bool is_null() const { return kind == Kind::null; }
  bool is_scalar() const { return kind == Kind::scalar; }
  bool is_list() const { return kind == Kind::list; }
  bool is_map() const { return kind == Kind::map; }

  // The entry of a map with this key, or nullptr.
  const Node* find(std::string_view name) const;
  Node* find(std::string_view name);
  std::vector<std::string> keys() const;

  // Where to point for this node as a whole: its key, else its first character.
  const Mark& where() const;
  // Nodes in this tree, itself included.
  std::size_t count() const;

  static Node scalar(std::string text, bool quoted = false);
  static Node number(std::int64_t value) { return scalar(std::to_string(value)); }
  static Node list(std::vector<Node> items = {});
  static Node map();
  // Appends an entry to a map.
  void add(std::string name, Node value);
};

// "a mapping", "a list", "nothing", "the text 'abc'" (shortened): for error messages.
std::string kind_text(const Node&);

// The path of an entry or item: join_path("a.b", "c") is "a.b.c".
std::string join_path(std::string_view path, std::string_view key);
std::string join_path(std::string_view path, std::size_t index);

// The node at "parallel.tensor" or "links[2].bandwidth" below `root`; the deepest existing node on
// the way when the rest is missing. Never nullptr.
const Node* find_nearest(const Node& root, std::string_view path);

// One `--set` path cut into pieces; `at` is the offset of the piece in the text.
struct PathPiece {
  std::string key;  // empty for an index
  std::size_t index = 0;
  std::size_t at = 0;
  std::size_t length = 0;
  bool is_index = false;
};
// Pieces of a path, or an empty list when it is not one ("a..b", "a[x]").
std::vector<PathPiece> split_path(std::string_view path);

// The tree as YAML in block style; it parses back to the same tree apart from positions and
// needless quotes.
std::string to_yaml(const Node&);

}  // namespace orrery
