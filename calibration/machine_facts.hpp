// What the operating system says of this machine.
#pragma once

#include <string>

#include "backend/core/units.hpp"

namespace orrery {

struct MachineFacts {
  std::string processor;  // "Intel(R) Xeon(R) Processor @ 2.50GHz"; "processor" when not told
  std::string system;     // "Linux 6.1.0"
  std::string date;       // "2026-01-31", of the calibration
  int cores = 1;          // that this process may run on
  Bytes memory;           // of the machine, or what its control group allows where that is less
};
MachineFacts machine_facts();

// "intel-xeon-processor-2-50ghz": lower-case letters and digits, the rest as single hyphens; marks
// like (R) are dropped.
std::string file_name_of(const std::string& processor);

}  // namespace orrery
