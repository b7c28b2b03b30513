// Pieces of work in child processes, several at once: SimGrid allows one simulation per process.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace orrery::cli {

struct ChildResult {
  std::string text;   // what the work returned
  std::string error;  // why there is none: its exception's message, or the signal that ended the
                      // child; "" when there is a text
};

// Runs every piece of work in a child of its own, `at_once` of them at a time, and brings back what
// they returned, in the order of the work. `done` is told how many have ended, after each. A child
// ends with this process, whatever ends it. No other thread may run.
std::vector<ChildResult> run_in_children(const std::vector<std::function<std::string()>>& work,
                                         std::size_t at_once,
                                         const std::function<void(std::size_t)>& done);

// Cores that this process may use.
std::size_t usable_cores();

}  // namespace orrery::cli
