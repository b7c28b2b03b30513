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
// A group that a curve of the platform was measured for takes the curve. Any other takes what
// NCCL's tuner would (nccl_tuning.hpp: ring, tree, NVLS, NVLS tree or PAT, and LL, LL128 or
// Simple): the form with the least alpha + slope S, alpha being NCCL's own and slope the larger of
// what a byte of the buffer costs
//
//              inside a node, over the ring bandwidth    between nodes, over the ports of a node
//   ring       f                                         f
//   tree       2 (a chain)                               1 for N = 2, else 2 (double binary tree;
//                                                        Sanders, Speck and Traff 2009)
//   NVLS       (m+1)/m over the switch's rate, m = n/N   as the tree
//   PAT        -                                         f over 0.75 of them
//
// twice that with LL, and no less than its limit allows; over 0.92 with LL128. Its time is alpha +
// slope S and, but for LL, the ramp's root, with the slope of the form that is best for the largest
// messages.
#pragma once

#include "backend/channel.hpp"
#include "backend/core/units.hpp"
#include "platforms/machine.hpp"
#include "platforms/platform.hpp"

namespace orrery {

enum class Inside { nvlink, pcie };  // what joins the GPUs of a node
// Of NVIDIA's GPUs, whose constants NCCL distinguishes; others take Ampere's.
enum class GpuGeneration { volta, ampere, hopper, blackwell };

struct GroupShape {
  int members = 1;
  int nodes = 1;             // that hold at least one member
  int members_per_node = 1;  // the largest number in one node
  bool even = true;          // the same number in every node
  Inside inside = Inside::nvlink;
  GpuGeneration generation = GpuGeneration::ampere;  // the oldest
  BytesPerSecond nvls_bandwidth;    // of one GPU when its switch reduces (NVLS); 0: it does not
  BytesPerSecond inside_bandwidth;  // ring bandwidth of one GPU in its node, achieved
  BytesPerSecond
      between_bandwidth;    // of all ports that the group uses in one node (the least), achieved
  Bytes ramp;               // S0
  Seconds network_latency;  // port and switches, one way
  Seconds wan_latency;      // between the two sites that are farthest apart, one way
  double all_to_all_load =
      0;  // seconds that the busiest link between nodes needs when every member
          // sends a byte to each in another node; 0: as the ports of a node
};

// The ramp formula. f: bytes that each member sends, over S.
Seconds ramp_time(Bytes size, double f, Seconds alpha, BytesPerSecond bandwidth, Bytes ramp);

// Whether a curve was measured for such groups and this operation.
bool covers(const CurveSpec& curve, const GroupShape& group, Collective kind);

// `curve` may be null. For send, receive and exchange: one message of alpha + S / bandwidth, never
// a curve. The result's algorithm is "measured", a name of nccl_tuning.hpp, "pairwise" or "direct";
// times are rounded to picoseconds and grow with `size`.
CollectivePlan collective_plan(Collective kind, Bytes size, const GroupShape& group,
                               const CurveSpec* curve);

// Latency of one message by NCCL's Simple protocol: base, and one hop inside a node or between
// nodes.
Seconds message_latency(Inside inside, bool between_nodes, Seconds network_latency);

}  // namespace orrery
