// Colours and the progress line of a terminal program.
#pragma once

#include <functional>
#include <ostream>
#include <string>
#include <string_view>

namespace orrery {

enum class ColorMode { automatic, always, never };

// Whether to colour a stream: `--color always|never` decides; else NO_COLOR (set, not empty) says
// no, CLICOLOR_FORCE (set, neither empty nor 0) says yes, and a terminal that is not TERM=dumb says
// yes.
bool use_color(ColorMode mode, bool is_terminal);
// Whether a file descriptor is a terminal that understands control sequences.
bool is_terminal(int descriptor);

enum class Style { bold, dim, red, green, yellow, blue };
// The text in a style, or unchanged when `on` is false.
std::string styled(std::string_view text, Style style, bool on);

struct ProgressOptions {
  bool quiet = false;     // print nothing but notes
  bool terminal = false;  // rewrite one line, at most 10 times a second; else a line every 30 s
  int width = 80;         // of the terminal, in columns
  std::function<double()> clock;  // seconds on a monotonic clock; empty: the real one
};
// For standard error as it is.
ProgressOptions stderr_progress(bool quiet);

// One line that tells how far the program is. Not thread-safe: one thread reports.
class ProgressLine {
 public:
  ProgressLine(std::ostream& out, ProgressOptions options);
  // Removes the line.
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // Shows text() if it is time; the text is made only then. Cheap enough for every step.
  void update(const std::function<std::string()>& text);
  // Prints a line of its own, such as a warning, without tearing the progress line.
  void note(std::string_view line);
  // Removes the progress line; update() may follow.
  void clear();

 private:
  std::ostream& out_;
  ProgressOptions options_;
  double last_;
  bool shown_ = false;
};

}  // namespace orrery
