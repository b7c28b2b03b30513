// Work in child processes: SimGrid allows one simulation per process, and runs that are to be
// compared shall start alike.
//
// A child ends with this process, whatever ends it. Nothing that its work does to memory is seen
// here, and it should print to stderr only. Call while no other thread runs.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "backend/core/error.hpp"

namespace orrery::cli {

struct ChildResult {
  std::string text;   // what the work returned
  std::string error;  // why there is none: its exception's message, or what ended the child; ""
                      // when there is a text
  Category category = Category::internal;  // of the error
};

using Work = std::function<std::string()>;

// Runs every piece of work in a child of its own, `at_once` of them at a time. `ended` gets the
// index of each that has ended and what came of it, in the order in which they end.
void run_in_children(const std::vector<Work>& work, std::size_t at_once,
                     const std::function<void(std::size_t, ChildResult)>& ended);

// What one piece of work returned. Throws Error of the category and the text of what it threw;
// Error{internal} when the child died.
std::string in_child(const Work& work);

// Cores that this process may use.
std::size_t usable_cores();

}  // namespace orrery::cli
