#include <algorithm>
#include <array>
#include <cctype>

#include "tests/tidy/tidy.hpp"

namespace orrery {

namespace {

// Finds function bodies by their braces: a brace whose head, the text since the last ; { or },
// holds a parameter list and is no scope and no statement. It errs towards finding too few.
class FunctionScan {
 public:
  FunctionScan(std::string_view code, int limit) : code_(code), limit_(limit) {}

  std::vector<LongFunction> run() {
    while (at_ < code_.size()) step();
    return found_;
  }

 private:
  void step() {
    const char c = code_[at_];
    if (c == '#' && starts_line()) {
      skip_directive();
    } else if (c == ';' || c == '}') {
      head_ = ++at_;
    } else if (c == '{') {
      open_brace();
    } else {
      ++at_;
    }
  }

  void open_brace() {
    const std::size_t close = matching_brace();
    if (is_initializer(close)) {
      at_ = close + 1;  // a member's initial value: the head of the constructor goes on
    } else if (is_function_head()) {
      const int lines = line_of(close) - line_of(head_start()) + 1;
      if (lines > limit_) found_.push_back({line_of(head_start()), lines});
      head_ = at_ = std::min(close + 1, code_.size());
    } else {
      head_ = ++at_;
    }
  }

  std::string_view head() const { return code_.substr(head_, at_ - head_); }

  bool is_function_head() const {
    static constexpr std::array<std::string_view, 6> scopes{"namespace", "class", "struct",
                                                            "enum",      "union", "extern"};
    const std::string_view text = code_.substr(head_start(), at_ - head_start());
    const auto opens_with = [&](std::string_view word) { return text.starts_with(word); };
    return text.find('(') != std::string_view::npos && std::ranges::none_of(scopes, opens_with);
  }

  // `: member_{value}, …` before a constructor's body: a name right before the brace, after the
  // parameters and a colon, and more of the list or the body behind it.
  bool is_initializer(std::size_t close) const {
    const std::string_view text = head();
    const std::size_t last = text.find_last_not_of(" \n");
    const std::size_t parameters = text.find(')');
    if (last == std::string_view::npos || parameters == std::string_view::npos) return false;
    const bool after_name = std::isalnum(static_cast<unsigned char>(text[last])) != 0 ||
                            text[last] == '_' || text[last] == '>';
    const std::size_t colon = text.find(':', parameters);
    const bool in_list =
        colon != std::string_view::npos && (colon + 1 >= text.size() || text[colon + 1] != ':');
    const std::size_t next = close + 1 < code_.size() ? code_.find_first_not_of(" \n", close + 1)
                                                      : std::string_view::npos;
    return after_name && in_list && next != std::string_view::npos &&
           (code_[next] == ',' || code_[next] == '{');
  }

  std::size_t head_start() const {
    const std::size_t start = code_.find_first_not_of(" \n", head_);
    return std::min(start, at_);
  }

  std::size_t matching_brace() const {
    int depth = 0;
    for (std::size_t i = at_; i < code_.size(); ++i) {
      if (code_[i] == '{') ++depth;
      if (code_[i] == '}' && --depth == 0) return i;
    }
    return code_.size() - 1;
  }

  bool starts_line() const {
    const std::size_t before = code_.substr(0, at_).find_last_not_of(" ");
    return before == std::string_view::npos || code_[before] == '\n';
  }

  void skip_directive() {
    while (at_ < code_.size() && (code_[at_] != '\n' || code_[at_ - 1] == '\\')) ++at_;
    head_ = at_;
  }

  int line_of(std::size_t position) const {
    return 1 + static_cast<int>(std::count(
                   code_.begin(), code_.begin() + static_cast<std::ptrdiff_t>(position), '\n'));
  }

  std::string_view code_;
  int limit_;
  std::size_t at_ = 0;
  std::size_t head_ = 0;
  std::vector<LongFunction> found_;
};

}  // namespace

std::vector<LongFunction> long_functions(std::string_view code, int limit) {
  return FunctionScan(code, limit).run();
}

}  // namespace orrery
