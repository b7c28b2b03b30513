// How long a collective takes on a group of GPUs, when nothing else uses its links.
//
// A group is reduced to what decides its time (`GroupShape`): members per node, the bandwidth
// inside and between nodes, and latencies. Then, S being the whole buffer, n the members, N the
// nodes:
//
//   ramp:  t = alpha + f S / B (1 + sqrt(S0 / S)),   f = 2 (n-1)/n for all-reduce, (n-1)/n for
//   gather and scatter
//
// The square root is the price of filling pipelines of chunks and of changing protocols; a measured
// curve fits to 5 % where alpha-beta alone is 18 % off (8 A100; the curve files name their cases).
// A group that a curve of the platform was measured for takes the curve. Any other takes the
// fastest of these forms:
//   ring   f S / B bytes over n-1 or 2(n-1) steps; B = min(inside, between)
//   tree   all-reduce only; inside a node a chain that carries 2S per link, between nodes S for N =
//   2 and 2S for N > 2 (double
//          binary tree; Sanders, Speck and Traff 2009)
// with protocol Simple (the ramp) or LL (half the bandwidth and capped, no ramp, small latency);
// LL128 lies in the envelope of the ramp and is not told apart. Latencies and LL caps are NCCL's
// own (NVIDIA/nccl, src/graph/tuning.cc):
//   ring   base + (steps - I) inside + I between,  I = 2(N-1) for all-reduce, N-1 else, 0 for N = 1
//   tree   base + 2 [ (n/N - 1) inside + floor(log2 N) between ]
#pragma once

#include "backend/channel.hpp"
#include "backend/core/units.hpp"
#include "platforms/machine.hpp"
#include "platforms/platform.hpp"

namespace orrery {

enum class Inside { nvlink, pcie };  // what joins the GPUs of a node

struct GroupShape {
  int members = 1;
  int nodes = 1;             // that hold at least one member
  int members_per_node = 1;  // the largest number in one node
  bool even = true;          // the same number in every node
  Inside inside = Inside::nvlink;
  BytesPerSecond inside_bandwidth;  // ring bandwidth of one GPU in its node, achieved
  BytesPerSecond
      between_bandwidth;    // of all ports that the group uses in one node (the least), achieved
  Bytes ramp;               // S0
  Seconds network_latency;  // port and switches, one way
};

// The ramp formula. f: bytes that each member sends, over S.
Seconds ramp_time(Bytes size, double f, Seconds alpha, BytesPerSecond bandwidth, Bytes ramp);

// Whether a curve was measured for such groups and this operation.
bool covers(const CurveSpec& curve, const GroupShape& group, Collective kind);

// `curve` may be null. For send, receive and exchange: one message of alpha + S / bandwidth, never
// a curve. The result's algorithm is "measured", "ring", "ring LL", "tree", "tree LL", "pairwise"
// or "direct"; times are rounded to picoseconds and grow with `size`.
CollectivePlan collective_plan(Collective kind, Bytes size, const GroupShape& group,
                               const CurveSpec* curve);

// Latency of one message by NCCL's Simple protocol: base, and one hop inside a node or between
// nodes.
Seconds message_latency(Inside inside, bool between_nodes, Seconds network_latency);

}  // namespace orrery
