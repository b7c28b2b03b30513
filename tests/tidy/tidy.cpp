#include "tests/tidy/tidy.hpp"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <stdexcept>

namespace orrery {

namespace {

using Offences = std::vector<Offence>;

constexpr std::size_t cpp_lines_max = 500;
constexpr std::size_t readme_lines_max = 80;
constexpr int function_lines_max = 80;

const std::set<std::string> allowed_at_top{
    "CMakeLists.txt",    "README.md", "LICENSE", "CHANGELOG.md", ".gitignore",
    ".gitattributes",    ".ci",       ".github", "scenarios",    ".clang-format",
    "CMakePresets.json", "sim",       "backend", "platforms",    "algorithms",
    "calibration",       "tests",     "scripts"};

std::string name_of(const std::string& path) { return path.substr(path.rfind('/') + 1); }

std::string top_of(const std::string& path) { return path.substr(0, path.find('/')); }

bool is_script(const SourceFile& file) {
  return file.text.starts_with("#!") || file.path.ends_with(".sh");
}

// Inputs of tests are what they are.
bool is_test_data(const std::string& path) {
  static const std::regex data("^tests/(.*/)?(seeds|data|golden)/");
  return std::regex_search(path, data);
}

// What people write by hand, and so keep tidy.
bool is_written_text(const SourceFile& file) {
  static const std::regex ends(
      R"(\.(md|ya?ml|json|cmake|in|dict|txt)$|(^|/)(\.clang-format|\.gitignore)$)");
  if (is_test_data(file.path)) return false;
  return is_cpp(file.path) || is_script(file) || std::regex_search(file.path, ends);
}

bool is_library(const std::string& path) { return is_cpp(path) && !is_below(path, "tests"); }

// One offence for each line that matches.
void grep(const SourceFile& file, const std::string& text, const std::regex& pattern,
          const std::string& what, Offences& offences) {
  int number = 0;
  for (std::string_view line : lines_of(text)) {
    ++number;
    if (std::regex_search(line.begin(), line.end(), pattern))
      offences.push_back({file.path, number, what});
  }
}

Offences file_length(const SourceTree& tree) {
  Offences offences;
  for (const SourceFile& file : tree) {
    const std::size_t lines = lines_of(file.text).size();
    if (is_cpp(file.path) && lines > cpp_lines_max)
      offences.push_back({file.path, 0, std::to_string(lines) + " lines; more than one concept?"});
  }
  return offences;
}

Offences function_length(const SourceTree& tree) {
  Offences offences;
  for (const SourceFile& file : tree) {
    if (!is_library(file.path)) continue;
    for (const LongFunction& function : long_functions(code_only(file.text), function_lines_max))
      offences.push_back(
          {file.path, function.line, "a function of " + std::to_string(function.lines) + " lines"});
  }
  return offences;
}

Offences white_space(const SourceTree& tree) {
  static const std::regex trailing("[ \t]$"), control("[\\x01-\\x08\\x0b-\\x1f\\x7f]"), tab("\t");
  Offences offences;
  for (const SourceFile& file : tree) {
    if (!is_written_text(file)) continue;
    grep(file, file.text, trailing, "space at the end of a line", offences);
    grep(file, file.text, control, "a control character", offences);
    grep(file, file.text, tab, "a tab", offences);
    if (file.text.find('\0') != std::string::npos)
      offences.push_back({file.path, 0, "a zero byte"});
    if (!file.text.empty() && file.text.back() != '\n')
      offences.push_back({file.path, 0, "no newline at its end"});
  }
  return offences;
}

Offences readmes(const SourceTree& tree) {
  std::set<std::string> paths, folders;
  Offences offences;
  for (const SourceFile& file : tree) {
    paths.insert(file.path);
    const std::string top = top_of(file.path);
    if (top != file.path && !top.starts_with('.')) folders.insert(top);
    if (is_library(file.path)) folders.insert(folder_of(file.path));
    if (name_of(file.path) == "README.md" && file.path != "README.md" &&
        lines_of(file.text).size() > readme_lines_max)
      offences.push_back({file.path, 0, "longer than a page"});
  }
  for (const std::string& folder : folders)
    if (!paths.contains(folder + "/README.md")) offences.push_back({folder, 0, "no README.md"});
  return offences;
}

Offences top_level(const SourceTree& tree) {
  std::set<std::string> strangers;
  for (const SourceFile& file : tree)
    if (!allowed_at_top.contains(top_of(file.path))) strangers.insert(top_of(file.path));
  Offences offences;
  for (const std::string& name : strangers)
    offences.push_back({name, 0, "does not belong at the top level"});
  return offences;
}

Offences file_names(const SourceTree& tree) {
  static const std::regex snake("^[a-z0-9_]+\\.[a-z]+(\\.in)?$"),
      folder("^([a-z0-9_]+/)*[a-z0-9_]+$");
  Offences offences;
  for (const SourceFile& file : tree) {
    if (!is_cpp(file.path)) continue;
    if (!std::regex_match(name_of(file.path), snake))
      offences.push_back({file.path, 0, "not in snake_case"});
    if (!std::regex_match(folder_of(file.path), folder))
      offences.push_back({file.path, 0, "folder not in snake_case"});
  }
  return offences;
}

Offences headers(const SourceTree& tree) {
  static const std::regex once("^#pragma once$");
  Offences offences;
  for (const SourceFile& file : tree) {
    if (!is_header(file.path) && !file.path.ends_with(".hpp.in")) continue;
    if (!file.text.starts_with("//"))
      offences.push_back({file.path, 1, "does not start with a comment: what is it for?"});
    Offences found;
    grep(file, without_comments(file.text), once, "", found);
    if (found.size() != 1) offences.push_back({file.path, 0, "needs one #pragma once"});
  }
  return offences;
}

Offences unfinished(const SourceTree& tree) {
  static const std::regex words(
      "\\b(TO"
      "DO|FIX"
      "ME|XX"
      "X)\\b");  // split, or this file would offend
  Offences offences;
  for (const SourceFile& file : tree)
    if (is_written_text(file))
      grep(file, file.text, words, "unfinished work belongs into an issue", offences);
  return offences;
}

Offences library_code(const SourceTree& tree) {
  static const std::regex location("\\bsource_location\\b"),
      views("\\bstd::(ranges::)?views\\b|\\branges::views\\b"), console("\\bstd::cout\\b");
  Offences offences;
  for (const SourceFile& file : tree) {
    if (!is_cpp(file.path)) continue;
    const std::string code = code_only(file.text);
    grep(file, code, location, "Site::here() instead: clang 14 has no std::source_location",
         offences);
    grep(file, code, views, "a loop instead: clang 14 cannot compile the standard library's views",
         offences);
    if (is_library(file.path) && !is_below(file.path, "scenarios/cli"))
      grep(file, code, console, "a library does not write to stdout", offences);
  }
  return offences;
}

Offences places(const SourceTree& tree) {
  static const std::regex path(
      "(^|[^A-Za-z0-9_.>}/-])/(wor"
      "k|ho"
      "me|ro"
      "ot|Use"
      "rs)/"),
      host(
          "https?"
          "://");
  Offences offences;
  for (const SourceFile& file : tree) {
    if (!is_written_text(file)) continue;
    grep(file, file.text, path, "a path of somebody's machine", offences);
    if (is_script(file) || file.path.ends_with(".cmake") || name_of(file.path) == "CMakeLists.txt")
      grep(file, file.text, host,
           "the build names no host: packages come from the system's own sources", offences);
  }
  return offences;
}

bool is_python(const SourceFile& file) { return file.text.starts_with("#!/usr/bin/env python3\n"); }

// Whether `command`, of which % is a file with the text, succeeds.
bool accepts(std::string command, const std::string& text) {
  std::string path = (std::filesystem::temp_directory_path() / "orrery_tidy_XXXXXX").string();
  const int descriptor = mkstemp(path.data());
  if (descriptor < 0) throw std::runtime_error("cannot make a temporary file");
  close(descriptor);
  std::ofstream(path, std::ios::binary) << text;
  command.replace(command.find('%'), 1, path);
  const int status = std::system((command + " 2>/dev/null").c_str());
  std::filesystem::remove(path);
  return status == 0;
}

Offences scripts(const SourceTree& tree) {
  static const std::regex strict("^set -[eu]*u[eu]*o pipefail$");
  Offences offences;
  for (const SourceFile& file : tree) {
    if (!is_script(file)) continue;
    if (is_python(file)) {
      if (!accepts("python3 -c 'compile(open(\"%\").read(), \"\", \"exec\")'", file.text))
        offences.push_back({file.path, 0, "Python cannot parse it"});
      continue;
    }
    if (!accepts("bash -n '%'", file.text))
      offences.push_back({file.path, 0, "bash cannot parse it"});
    Offences found;
    grep(file, file.text, strict, "", found);
    if (file.text.starts_with("#!") && found.empty())
      offences.push_back({file.path, 0, "no 'set -euo pipefail'"});
  }
  return offences;
}

}  // namespace

const std::vector<Rule>& tidy_rules() {
  static const std::vector<Rule> rules{
      {"a source file has at most 500 lines", file_length},
      {"a function has at most 80 lines", function_length},
      {"text has no tabs, control characters or trailing space, and ends with a newline",
       white_space},
      {"every folder has a README of at most a page", readmes},
      {"the top level holds only what the design allows", top_level},
      {"sources have snake_case names", file_names},
      {"a header says what it is for and guards itself", headers},
      {"nothing is left unfinished", unfinished},
      {"sources avoid what our compilers and callers cannot bear", library_code},
      {"no file names a place on somebody's machine", places},
      {"scripts are strict and parse", scripts},
  };
  return rules;
}

std::vector<Offence> check_rule(const std::string& name, const SourceTree& tree) {
  for (const Rule& rule : tidy_rules())
    if (rule.name == name) return rule.check(tree);
  throw std::out_of_range("no rule '" + name + "'");
}

}  // namespace orrery
