// A world that only keeps accounts of memory: one rank at a time issues its whole program to a
// device that does nothing, at once.
//
// Charges and refunds follow the order of issue (backend/ledger.hpp), in which no clock enters, so
// the peak is the one that every other world reports.
#pragma once

#include <functional>
#include <optional>

#include "backend/world.hpp"
#include "scenarios/cli/caching_allocator.hpp"

namespace orrery::cli {

struct RankMemory {
  Bytes peak;
  BytesByLabel by_label{};  // at the peak
  Bytes cached;             // what a caching allocator holds for tensors (caching_allocator.hpp)
};

// What the rank `rank` of a world with these options holds at its peak. Values are never computed.
// Error{out_of_memory} beyond options.device_capacity; Error{unavailable} for programs whose ranks
// fork flows or wait for control messages, which need a world with time.
RankMemory memory_of_rank(const WorldOptions& options, const World::Program& program, int rank,
                          Segments segments = Segments::expandable);

// Calls `launched` with every kernel that the rank launches, those of sequences one by one, in
// order of issue. Limits and errors as above.
void launched_by_rank(const WorldOptions& options, const World::Program& program, int rank,
                      const std::function<void(const PreparedKernel&)>& launched);

}  // namespace orrery::cli
