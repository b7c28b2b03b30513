#include "tests/support/source_tree.hpp"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

namespace orrery {

namespace {

std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// The names at the root that .gitignore excludes by a line like "/build/".
std::set<std::string> ignored_at_root(const std::filesystem::path& root) {
  std::set<std::string> names{".git"};
  std::istringstream lines(read_file(root / ".gitignore"));
  for (std::string line; std::getline(lines, line);) {
    if (line.size() < 2 || line.front() != '/') continue;
    const std::size_t end = line.back() == '/' ? line.size() - 1 : line.size();
    names.insert(line.substr(1, end - 1));
  }
  return names;
}

// An editor's leavings.
bool is_scratch(const std::string& name) { return name.ends_with(".swp") || name.ends_with('~'); }

bool ends_with_any(std::string_view path, std::initializer_list<std::string_view> ends) {
  return std::ranges::any_of(ends, [&](std::string_view end) { return path.ends_with(end); });
}

// Walks over C++ text and blanks out what is not wanted.
class Blanker {
 public:
  Blanker(std::string_view text, bool keep_literals)
      : text_(text), out_(text), keep_(keep_literals) {}

  std::string run() {
    while (at_ < text_.size()) step();
    return std::move(out_);
  }

 private:
  void step() {
    const std::string_view rest = text_.substr(at_);
    if (rest.starts_with("//")) {
      blank_until(text_.find('\n', at_), true);
    } else if (rest.starts_with("/*")) {
      blank_until(past(text_.find("*/", at_ + 2), 2), true);
    } else if (rest.starts_with("R\"") && !follows_word()) {
      raw_string();
    } else if (rest.front() == '"' || (rest.front() == '\'' && !follows_word())) {
      literal(rest.front());  // a ' after a word character separates digits
    } else {
      ++at_;
    }
  }

  bool follows_word() const {
    return at_ > 0 &&
           (std::isalnum(static_cast<unsigned char>(text_[at_ - 1])) != 0 || text_[at_ - 1] == '_');
  }

  static std::size_t past(std::size_t found, std::size_t length) {
    return found == std::string_view::npos ? found : found + length;
  }

  void blank_until(std::size_t end, bool blank) {
    end = std::min(end, text_.size());
    for (; at_ < end; ++at_)
      if (blank && text_[at_] != '\n') out_[at_] = ' ';
  }

  void raw_string() {
    const std::size_t open = text_.find('(', at_);
    if (open == std::string_view::npos) return blank_until(open, !keep_);
    const std::string close = ")" + std::string(text_.substr(at_ + 2, open - at_ - 2)) + "\"";
    at_ = open + 1;
    const std::size_t end = text_.find(close, at_);
    blank_until(end, !keep_);
    at_ = std::min(past(end, close.size()), text_.size());
  }

  void literal(char quote) {
    std::size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != quote && text_[end] != '\n')
      end += text_[end] == '\\' ? 2 : 1;
    ++at_;
    blank_until(end, !keep_);
    at_ = std::min(at_ + 1, text_.size());
  }

  std::string_view text_;
  std::string out_;
  bool keep_;
  std::size_t at_ = 0;
};

}  // namespace

SourceTree read_tree(const std::string& root) {
  const std::set<std::string> ignored = ignored_at_root(root);
  SourceTree tree;
  for (auto it = std::filesystem::recursive_directory_iterator(root);
       it != std::filesystem::recursive_directory_iterator(); ++it) {
    const std::string path = std::filesystem::relative(it->path(), root).generic_string();
    if (ignored.contains(path)) {
      it.disable_recursion_pending();
    } else if (it->is_regular_file() && !is_scratch(path)) {
      tree.push_back({path, read_file(it->path())});
    }
  }
  std::ranges::sort(tree, {}, &SourceFile::path);
  return tree;
}

bool is_cpp(std::string_view path) { return ends_with_any(path, {".hpp", ".cpp", ".cu", ".cuh"}); }

bool is_header(std::string_view path) { return ends_with_any(path, {".hpp", ".cuh"}); }

bool is_below(std::string_view path, std::string_view folder) {
  return path.size() > folder.size() && path.starts_with(folder) && path[folder.size()] == '/';
}

std::string folder_of(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return std::string(slash == std::string_view::npos ? "" : path.substr(0, slash));
}

std::string without_comments(std::string_view text) { return Blanker(text, true).run(); }

std::string code_only(std::string_view text) { return Blanker(text, false).run(); }

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    lines.push_back(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return lines;
}

std::string describe(const std::vector<Offence>& offences) {
  std::string out;
  for (const Offence& offence : offences) {
    out += "\n" + offence.path;
    if (offence.line > 0) out += ":" + std::to_string(offence.line);
    out += ": " + offence.what;
  }
  return out;
}

}  // namespace orrery
