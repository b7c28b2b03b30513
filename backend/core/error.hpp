// Errors that a user can act on. `Error` carries a category, which fixes the program's exit code, a
// message, and named context (rank, flow, operation, call site, time). Bugs of ours are
// `ORRERY_ASSERT`s, which stay on in release builds.
#pragma once

#include <exception>
#include <string>
#include <utility>
#include <vector>

namespace orrery {

enum class Category {
  internal,       // exit 1: a defect of Orrery
  usage,          // exit 2: bad command line
  config,         // exit 3: invalid scenario or platform
  out_of_memory,  // exit 4, as all failures of a run
  deadlock,
  mismatch,          // the members of a channel issued different operations
  unordered_access,  // two operations touch one storage without an order between them
  livelock,          // fruitless polling at one instant
  invalid_program,   // the rank program broke a rule of the interface
  rank_lost,         // a rank waits for another whose program has ended
  replay,            // a decision log does not fit the program
  tolerance,         // exit 5
  unavailable,       // exit 6: device or backend not present
  interrupted,       // exit 130
};

const char* name(Category);  // "out_of_memory"
int exit_code(Category);

// Where in the source an operation was issued. Default arguments `Site site = Site::here()` capture
// the caller.
struct Site {
  const char* file = "";
  int line = 0;
  static constexpr Site here(const char* f = __builtin_FILE(), int l = __builtin_LINE()) {
    return {f, l};
  }
};
std::string to_string(Site);  // "algorithms/ddp.cpp:31", relative to the project where possible

class Error : public std::exception {
 public:
  Error(Category category, std::string message)
      : category_(category), message_(std::move(message)) {}

  // Adds one line of context, e.g. with("rank", "3"). Returns *this for chaining in a throw
  // expression.
  Error& with(std::string key, std::string value);

  Category category() const { return category_; }
  const std::string& message() const { return message_; }
  const std::vector<std::pair<std::string, std::string>>& context() const { return context_; }
  // The value of the first context entry with this key, or "".
  std::string context(const std::string& key) const;
  // Message and context, one per line.
  const char* what() const noexcept override;

 private:
  Category category_;
  std::string message_;
  std::vector<std::pair<std::string, std::string>> context_;
  mutable std::string what_;
};

[[noreturn]] void assertion_failed(const char* condition, const char* why, Site site);

}  // namespace orrery

// Guards an invariant of ours in every build; a failure throws Error{internal}.
#define ORRERY_ASSERT(condition, why)                                                      \
  do {                                                                                     \
    if (!(condition)) ::orrery::assertion_failed(#condition, why, ::orrery::Site::here()); \
  } while (false)
