// The arithmetic of collectives, shared by every world that computes values: a left fold in group
// order, in fp32 (integers in their own type), rounded once to the buffer's type. So sim and cpu
// agree bit for bit.
#pragma once

#include <span>
#include <vector>

#include "backend/channel.hpp"
#include "backend/kernel.hpp"

namespace orrery {

// The results for every member of an operation whose members' `in` views are given in part order
// (see Rendezvous::parts). results[i] holds the bytes for member i's `out`: for all_reduce and
// broadcast all are equal and only results[0] is filled; all_gather likewise; for a send,
// results[1]; reduce_scatter and all_to_all give each member its part.
std::vector<std::vector<std::byte>> collective_result(const Communication& operation,
                                                      std::span<const View> inputs);

// The bytes that member `part` receives, from what collective_result returned; empty when it
// receives none (a sender).
std::span<const std::byte> result_for(const Communication& operation,
                                      const std::vector<std::vector<std::byte>>& results, int part);

}  // namespace orrery
