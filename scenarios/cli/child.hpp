// A piece of work in a process of its own: SimGrid allows one simulation per process, and runs that
// are to be compared shall start alike.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace orrery::cli {

// What `work` returned in a forked child, which ends with its parent. Throws Error of the category
// and the text of what `work` threw; Error{internal} when the child died. Call while no other
// thread runs. Nothing that `work` does to memory is seen here, and it should print to stderr only.
std::string in_child(const std::function<std::string()>& work);

// Memory of this process that is in RAM, and the most that ever was; 0 where the system does not
// tell.
struct ResidentMemory {
  std::int64_t now_bytes = 0, peak_bytes = 0;
};
ResidentMemory resident_memory();

}  // namespace orrery::cli
