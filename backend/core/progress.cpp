#include "backend/core/progress.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>

#include "backend/core/table.hpp"

namespace orrery {

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// At most `width` terminal cells of the text.
std::string fit(std::string_view text, std::size_t width) {
  while (!text.empty() && display_width(text) > width) {
    text.remove_suffix(1);
    while (!text.empty() && (static_cast<unsigned char>(text.back()) & 0xC0) == 0x80)
      text.remove_suffix(1);
    if (!text.empty() && static_cast<unsigned char>(text.back()) >= 0xC0) text.remove_suffix(1);
  }
  return std::string(text);
}

constexpr double terminal_period = 0.1, plain_period = 30;

}  // namespace

bool use_color(ColorMode mode, bool terminal) {
  if (mode != ColorMode::automatic) return mode == ColorMode::always;
  if (!variable("NO_COLOR").empty()) return false;
  const std::string force = variable("CLICOLOR_FORCE");
  if (!force.empty() && force != "0") return true;
  return terminal && variable("TERM") != "dumb";
}

bool is_terminal(int descriptor) { return ::isatty(descriptor) == 1 && variable("TERM") != "dumb"; }

std::string styled(std::string_view text, Style style, bool on) {
  static constexpr std::array<int, 6> codes{1, 2, 31, 32, 33, 34};
  if (!on) return std::string(text);
  return fmt::format("\x1b[{}m{}\x1b[0m", codes.at(static_cast<std::size_t>(style)), text);
}

ProgressOptions stderr_progress(bool quiet) {
  ProgressOptions options;
  options.quiet = quiet;
  options.terminal = is_terminal(STDERR_FILENO);
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
    options.width = size.ws_col;
  return options;
}

ProgressLine::ProgressLine(std::ostream& out, ProgressOptions options)
    : out_(out), options_(std::move(options)) {
  if (!options_.clock)
    options_.clock = [] {
      const auto now = std::chrono::steady_clock::now().time_since_epoch();
      return std::chrono::duration<double>(now).count();
    };
  // The first line of a pipe comes after a whole period, that of a terminal at once.
  last_ = options_.clock() - (options_.terminal ? 2 * terminal_period : 0);
}

ProgressLine::~ProgressLine() { clear(); }

void ProgressLine::update(const std::function<std::string()>& text) {
  if (options_.quiet) return;
  const double now = options_.clock();
  if (now - last_ < (options_.terminal ? terminal_period : plain_period)) return;
  last_ = now;
  if (options_.terminal) {
    // One column stays free: some terminals wrap when the last one is written.
    out_ << "\r\x1b[K" << fit(text(), static_cast<std::size_t>(std::max(options_.width - 1, 1)));
    shown_ = true;
  } else {
    out_ << text() << '\n';
  }
  out_.flush();
}

void ProgressLine::note(std::string_view line) {
  clear();
  out_ << line << '\n';
  out_.flush();
}

void ProgressLine::clear() {
  if (!shown_) return;
  out_ << "\r\x1b[K";
  out_.flush();
  shown_ = false;
}

}  // namespace orrery
