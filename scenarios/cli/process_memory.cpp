#include "scenarios/cli/process_memory.hpp"

#include <cstdlib>
#include <fstream>
#include <string>

namespace orrery::cli {

ResidentMemory resident_memory() {
  ResidentMemory memory;
  std::int64_t files = 0;  // the program's own text and libraries, of which more is met as it runs
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    const auto kib = [&line] {
      return std::strtoll(line.c_str() + line.find(':') + 1, nullptr, 10);
    };
    if (line.starts_with("VmRSS:")) memory.now_bytes = kib() * 1024;
    if (line.starts_with("VmHWM:")) memory.peak_bytes = kib() * 1024;
    if (line.starts_with("RssFile:")) files = kib() * 1024;
  }
  memory.now_bytes -= files;
  memory.peak_bytes -= files;
  return memory;
}

}  // namespace orrery::cli
