// Which ranks of a shared program are simulated together, so that what they touch stays in the
// cache (simgrid/local_queues.hpp): ranks touch each other by communications alone.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "backend/channel.hpp"
#include "sim/recording.hpp"

namespace orrery::sim {

struct Core;

struct Neighbourhoods {
  std::vector<std::uint16_t> number_of;       // by rank
  std::vector<const Communicator*> crossing;  // those with members in several of them
};

// Of the ranks of `core`, which replay `program`: those with the shortest communications in common
// come together, up to SimOptions::neighbourhood ranks. Nothing where they are few, or where
// something else than communications that take time reaches from one rank to another.
std::optional<Neighbourhoods> find_neighbourhoods(Core& core, const SharedProgram& program);

}  // namespace orrery::sim
