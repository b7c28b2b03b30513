// What this process holds of the machine's memory.
#pragma once

#include <cstdint>

namespace orrery::cli {

// Memory of this process that is in RAM, and the most that ever was; 0 where the system does not
// tell.
struct ResidentMemory {
  std::int64_t now_bytes = 0, peak_bytes = 0;
};
ResidentMemory resident_memory();

}  // namespace orrery::cli
