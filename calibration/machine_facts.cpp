#include "calibration/machine_facts.hpp"

#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <ctime>
#include <fstream>

#include "backend/core/error.hpp"
#include "backend/core/text.hpp"

namespace orrery {

namespace {

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string text; std::getline(file, text);)
    if (text.starts_with("model name")) return std::string(trim(text.substr(text.find(':') + 1)));
  return "processor";
}

std::string system_name() {
  utsname names{};
  if (uname(&names) != 0) return "unknown";
  return std::string(names.sysname) + " " + names.release;
}

int usable_cores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof cores, &cores) != 0)
    return static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  return std::max(1, CPU_COUNT(&cores));
}

Bytes usable_memory() {
  Bytes memory(sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE));
  for (const char* path :
       {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::ifstream file(path);
    std::int64_t limit = 0;
    if (file >> limit && limit > 0) memory = std::min(memory, Bytes(limit));  // "max" is no number
  }
  if (memory.value <= 0)
    throw Error(Category::unavailable, "the system does not tell how much memory it has");
  return memory;
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", &parts);
  return text;
}

}  // namespace

MachineFacts machine_facts() {
  return {processor_name(), system_name(), today(), usable_cores(), usable_memory()};
}

std::string file_name_of(const std::string& processor) {
  std::string out;
  for (std::size_t i = 0; i < processor.size(); ++i) {
    if (processor[i] == '(') {
      const std::size_t end = processor.find(')', i);
      if (end == std::string::npos) break;
      i = end;
    } else if (const auto c = static_cast<unsigned char>(processor[i]); std::isalnum(c) != 0) {
      out += static_cast<char>(std::tolower(c));
    } else if (!out.empty() && out.back() != '-') {
      out += '-';
    }
  }
  while (!out.empty() && out.back() == '-') out.pop_back();
  return out.empty() ? "processor" : out;
}

}  // namespace orrery
