#include "scenarios/cli/version.hpp"

#include "orrery_paths.hpp"

namespace orrery::cli {

std::string version() { return orrery::version; }

std::string build() {
#ifdef NDEBUG
  const std::string kind = "release";
#else
  const std::string kind = "debug";
#endif
#ifdef __clang__
  return "clang " __clang_version__ ", " + kind;
#else
  return "g++ " __VERSION__ ", " + kind;
#endif
}

}  // namespace orrery::cli
