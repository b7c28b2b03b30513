#include <doctest/doctest.h>

#include <cstdlib>
#include <sstream>

#include "backend/core/progress.hpp"

using namespace orrery;

namespace {

// A progress line on a clock that the test moves.
struct Bench {
  std::ostringstream out;
  double now = 100;
  int made = 0;
  ProgressOptions options(bool terminal, bool quiet = false) {
    return {quiet, terminal, 20, [this] { return now; }};
  }
  void update(ProgressLine& line, double at, const char* text) {
    now = at;
    line.update([&] { return ++made, std::string(text); });
  }
};

}  // namespace

TEST_CASE("a terminal's line is rewritten at most ten times a second and removed at the end") {
  Bench b;
  {
    ProgressLine line(b.out, b.options(true));
    b.update(line, 100, "one");
    b.update(line, 100.05, "two");
    b.update(line, 100.11, "three");
  }
  CHECK(b.out.str() == "\r\x1b[Kone\r\x1b[Kthree\r\x1b[K");
  CHECK(b.made == 2);
}

TEST_CASE("a pipe gets a plain line every 30 seconds") {
  Bench b;
  {
    ProgressLine line(b.out, b.options(false));
    b.update(line, 101, "one");
    b.update(line, 131, "two");
    b.update(line, 140, "three");
    b.update(line, 161, "four");
  }
  CHECK(b.out.str() == "two\nfour\n");
}

TEST_CASE("a quiet line says nothing but notes") {
  Bench b;
  ProgressLine line(b.out, b.options(true, true));
  b.update(line, 200, "one");
  CHECK(b.out.str() == "");
  CHECK(b.made == 0);
  line.note("warning: x");
  CHECK(b.out.str() == "warning: x\n");
}

TEST_CASE("a note does not tear the line, and a long line is cut to the terminal") {
  Bench b;
  ProgressLine line(b.out, b.options(true));
  b.update(line, 101, "ééééééééééééééééééééééé");
  line.note("warning: x");
  CHECK(b.out.str() == "\r\x1b[Kééééééééééééééééééé\r\x1b[Kwarning: x\n");
}

TEST_CASE("colours follow --color, then NO_COLOR, then CLICOLOR_FORCE, then the terminal") {
  ::unsetenv("NO_COLOR");
  ::unsetenv("CLICOLOR_FORCE");
  ::setenv("TERM", "xterm", 1);
  CHECK(use_color(ColorMode::automatic, true));
  CHECK_FALSE(use_color(ColorMode::automatic, false));
  ::setenv("TERM", "dumb", 1);
  CHECK_FALSE(use_color(ColorMode::automatic, true));
  ::setenv("CLICOLOR_FORCE", "0", 1);
  CHECK_FALSE(use_color(ColorMode::automatic, false));
  ::setenv("CLICOLOR_FORCE", "1", 1);
  CHECK(use_color(ColorMode::automatic, false));
  ::setenv("NO_COLOR", "1", 1);
  CHECK_FALSE(use_color(ColorMode::automatic, true));
  CHECK(use_color(ColorMode::always, false));
  CHECK_FALSE(use_color(ColorMode::never, true));
}

TEST_CASE("a style wraps text only when colours are on") {
  CHECK(styled("x", Style::red, true) == "\x1b[31mx\x1b[0m");
  CHECK(styled("x", Style::bold, false) == "x");
}
