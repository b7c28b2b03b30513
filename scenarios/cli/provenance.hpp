// How measured figures came about.
#pragma once

#include <string>

#include "scenarios/cli/command.hpp"

namespace orrery::cli {

// Empty where it is not known.
struct Provenance {
  std::string date;     // UTC: "2026-01-31"
  std::string command;  // as in a shell
  std::string device, driver;
};

// The command line that the arguments came from, but for what does not change figures.
std::string command_text(const Arguments& arguments);
// Of a run by these arguments, on this machine, now.
Provenance provenance_here(const Arguments& arguments);

}  // namespace orrery::cli
