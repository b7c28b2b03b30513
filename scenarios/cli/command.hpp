// The command table: from it come dispatch, help, and (later) the man page and completions.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "backend/core/progress.hpp"

namespace orrery::cli {

// What a command line says, after parsing. Few flags: everything else is reached by --set.
struct Arguments {
  std::string command;
  std::vector<std::string> positional;
  std::vector<std::string> set;    // path=value
  std::string world = "cpu";       // of `run`
  std::string out;                 // folder for result files
  std::string checkpoint, resume;  // of `run`
  std::optional<std::uint64_t> seed;
  bool json = false, quiet = false, trace = false, help = false;
  ColorMode color = ColorMode::automatic;
};

struct Command {
  const char* name;
  const char* positional;  // "SCENARIO"
  const char* summary;
  const char* description;
  const char* example;
  std::vector<const char*> options;  // names of the options it takes beside the common ones
  int (*run)(const Arguments&);      // returns the exit code; throws Error
};

const std::vector<Command>& commands();
const Command* find_command(const std::string& name);

// Parses argv. Error{usage} with a suggestion for what is not known.
Arguments parse_arguments(int argc, const char* const* argv);
std::string help_text();  // of the program
std::string help_text(const Command& command);

// The whole program: parses, runs, prints errors. Returns the exit code: 0 ok, 1 internal error, 2
// usage, 3 invalid scenario or platform, 4 simulated failure, 5 outside tolerance, 6 device or
// backend unavailable, 130 interrupted.
int main_program(int argc, const char* const* argv);

int simulate(const Arguments& arguments);
int run(const Arguments& arguments);
int check(const Arguments& arguments);
int trace(const Arguments& arguments);
int schema(const Arguments& arguments);
int doctor(const Arguments& arguments);

}  // namespace orrery::cli
