// Kills a process at a moment that depends on what it has done, not on time.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>

namespace orrery {

// For ProcessOptions::while_it_runs: sends SIGKILL after `events` things have happened to the files
// of the folder (made, written, closed, renamed), and then `spins` turns of a loop in this process.
// Does nothing to a process that has ended before. Watches from the call of this function on.
std::function<void(pid_t)> kill_after(const std::string& folder, unsigned events, unsigned spins);

}  // namespace orrery
