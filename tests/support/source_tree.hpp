// The project's own text, for tests about it: files in memory, so that a rule can be fed planted
// offences as well as the real tree.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace orrery {

struct SourceFile {
  std::string path;  // from the project's root, with '/'
  std::string text;
};
using SourceTree = std::vector<SourceFile>;

struct Offence {
  std::string path;
  int line = 0;  // 0: the file as a whole
  std::string what;
};

// All files below `root` in order of their paths, but for .git and the root's entries that
// .gitignore names.
SourceTree read_tree(const std::string& root);

bool is_cpp(std::string_view path);     // .hpp, .cpp, .cu, .cuh
bool is_header(std::string_view path);  // .hpp, .cuh
bool is_below(std::string_view path, std::string_view folder);

// "a/b" of "a/b/c.hpp"; "" at the root.
std::string folder_of(std::string_view path);

// The text with comments blanked out, of the same length and lines.
std::string without_comments(std::string_view text);

// The text with comments and the contents of string and character literals blanked out.
std::string code_only(std::string_view text);

// Line by line, without the ends of lines. A final newline starts no further line.
std::vector<std::string_view> lines_of(std::string_view text);

// One offence a line, as path:line: what.
std::string describe(const std::vector<Offence>& offences);

}  // namespace orrery
