// What Ctrl-C, SIGTERM and SIGHUP do: end the program at once, with whole result files or none.
//
// The handler removes the temporary file that is registered here and ends the process: 130 after
// SIGINT, 128 + signal after the others. While files are written and results printed, an
// InterruptGuard holds it back, so a set of files is complete or absent.
#pragma once

#include <string>

namespace orrery::cli {

// Installs the handler for signals that are not ignored. `json`: an interrupted command prints an
// error object on stdout. Also ends quietly when stdout is a closed pipe, and opens /dev/null in
// place of standard streams that are closed, so that no result file can take their numbers.
void prepare_process(bool json);

// Holds signals back for its lifetime; one that came meanwhile takes effect at its end.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
};

// From here on an interrupt adds nothing to stdout: a whole result is there.
void result_was_printed();

// The file that an interrupt removes; "" for none. At most one at a time.
void remove_on_interrupt(const std::string& path);

}  // namespace orrery::cli
