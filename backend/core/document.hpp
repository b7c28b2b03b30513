// A YAML or JSON file as a tree with positions, with `--set` changes applied.
//
// Accepted YAML: one document of mappings, lists and scalars, with anchors and aliases. Refused
// with a clear message: invalid UTF-8 and control characters, tags (`!!str`), merge keys (`<<`),
// keys that are not plain strings, nesting deeper than 64, files above 16 MiB, trees above 200,000
// nodes after alias expansion. JSON goes through the same front end; its one gap is
// `\uD83D\uDE00`-style surrogate pairs in strings, which are refused.
#pragma once

#include <string>
#include <vector>

#include "backend/core/config_error.hpp"
#include "backend/core/config_tree.hpp"

namespace orrery {

class Document {
 public:
  // Throws ConfigError for syntax errors, Error{config} when the file cannot be read.
  static Document parse_file(const std::string& path);
  static Document parse_text(std::string text, std::string file_name = "<text>");

  // Applies "parallel.tensor=8", "links[1].bandwidth=25GBps", "memory.recompute=[attention, mlp]".
  // The value is YAML. Mappings on the way are created, an index one past the end appends. What is
  // wrong with it is kept as a problem and thrown by the next read, like all other messages;
  // whether the path exists is for the reader to say, which knows the keys.
  void set(const std::string& assignment);

  const Node& root() const { return root_; }
  // Duplicate keys, refused constructs and bad settings found so far.
  const std::vector<ConfigMessage>& problems() const { return problems_; }

 private:
  Node root_;
  std::vector<ConfigMessage> problems_;
};

}  // namespace orrery
