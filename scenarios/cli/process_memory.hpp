// What this process holds of the machine's memory.
#pragma once

#include <cstdint>

namespace orrery::cli {

// Memory of this process that is in RAM and holds data, not mapped files, and the most that ever
// was; 0 where the system does not tell. The system counts no peak without files: the peak is that
// of all memory less the files mapped now, of which nothing is given back while there is room.
struct ResidentMemory {
  std::int64_t now_bytes = 0, peak_bytes = 0;
};
ResidentMemory resident_memory();

}  // namespace orrery::cli
