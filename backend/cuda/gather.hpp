// One report of a run in which each process had a rank.
#pragma once

#include <string>
#include <vector>

#include "backend/cuda/processes.hpp"
#include "backend/world.hpp"

namespace orrery::cuda {

// Called by every process whose rank has ended well. Rank 0: fills `report`, which holds its own
// rank, with those of all others, and returns what each process told besides, by rank. Others hand
// over theirs and `mine`, and return nothing. Throws what ended another process.
std::vector<std::string> gather(Processes& processes, RunReport& report, const std::string& mine);

// A rank's report as bytes, for a process of the same build. Error{mismatch} for what to_bytes did
// not write.
std::string to_bytes(const RankReport& report);
RankReport report_from_bytes(const std::string& bytes);

}  // namespace orrery::cuda
