// Which forms of a collective NCCL knows on a group, and the latency it gives each.
//
// Constants and forms are those of NCCL's tuner (NVIDIA/nccl, src/graph/tuning.cc, baseLatencies,
// hwLatencies, llMaxBws and ncclTopoTuneModel). n members on N nodes, n/N of them on each:
//
//   ring      base + (steps - I) max(inside, overhead) + I between,  steps = 2(n-1) for all-reduce,
//             n-1 else; I = 2(N-1) or N-1, 0 on one node; overhead 1 us on several nodes, three
//             times that for Simple
//   tree      base + 2 [ (n/N - 1) inside + floor(log2 N) between ], all-reduce only
//   NVLS      inside, all-reduce on one node whose switch reduces
//   NVLS tree inside + 2 floor(log2 N) between, all-reduce on several such nodes
//   PAT       base + floor(log2 N) between / 3.5 + 2.8 us n, all-gather and reduce-scatter with one
//             member per node
//
// `between` is the network's row plus the latency of port and switches, twice for Simple. NVLS,
// NVLS tree and PAT exist in Simple only, LL128 over NVLink only.
#pragma once

#include <array>
#include <optional>

#include "platforms/collective_time.hpp"

namespace orrery {

enum class NcclAlgorithm : std::uint8_t { ring, tree, nvls, nvls_tree, pat };
enum class NcclProtocol : std::uint8_t { ll, ll128, simple };
inline constexpr std::array<NcclAlgorithm, 5> nccl_algorithms{
    NcclAlgorithm::ring, NcclAlgorithm::tree, NcclAlgorithm::nvls, NcclAlgorithm::nvls_tree,
    NcclAlgorithm::pat};
inline constexpr std::array<NcclProtocol, 3> nccl_protocols{NcclProtocol::ll, NcclProtocol::ll128,
                                                            NcclProtocol::simple};

// "ring LL", "tree LL128", "NVLS tree"; the protocol Simple goes without saying.
const char* name(NcclAlgorithm algorithm, NcclProtocol protocol);

// Empty where NCCL has no such form for the collective and the group.
std::optional<Seconds> nccl_latency(Collective kind, const GroupShape& group,
                                    NcclAlgorithm algorithm, NcclProtocol protocol);

// The most that a ring or tree with protocol LL carries per second: llMaxBws, by nodes.
BytesPerSecond ll_limit(GpuGeneration generation, int nodes);

}  // namespace orrery
