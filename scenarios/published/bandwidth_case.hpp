// How fast the link between two data centres must be for training to keep its GPUs busy: the tables
// of Streaming DiLoCo (arXiv 2501.18512, table 4) and of DiLoCo's scaling laws (arXiv 2503.09799,
// table 7), under their own cost convention.
//
// Their simulator (section 3.1 of the first): a step is forward, backward by activations and
// backward by parameters of every layer (all but the first layer's activations), in that order and
// equally long; communication is one copy of a layer's numbers, 16 bits or `outer_bits` each, over
// one link without latency, one layer after the other. A layer's may start when its backward by
// parameters ends, and is over before the layer's forward of the next step, or tau steps later.
// Neither the factor 2 (n - 1) / n of an all-reduce nor a network inside the sites is in it.
//
// Not told: which of two neighbours on the grid is printed where utilization passes the level
// between them. It is the lower one, as the first paper's table shows (README.md).
#pragma once

#include <cstdint>

namespace orrery {

struct BandwidthCase {
  double parameters = 0, step_s = 0;
  std::int64_t layers = 0;
  std::int64_t sync_every = 1;       // H, steps between two exchanges of a layer
  std::int64_t fragment_layers = 0;  // layers exchanged in turn, strided; 0: all at once
  std::int64_t overlap_steps = 0;    // tau
  double bits = 16;                  // per number
};

// Compute time over all time, with a link of so many bits per second, once settled.
double compute_utilization(const BandwidthCase& c, double bits_per_s);

// The grid of both papers: 50 points from 0.1 to 1000 Gbit/s, each 21 % above the one before.
inline constexpr int bandwidth_grid_points = 50;
double bandwidth_grid_gbit_s(int point);

// The last point of the grid before the first that reaches the utilization, as the papers print it;
// the grid's first where that reaches it, its last where none does.
double needed_gbit_s(const BandwidthCase& c, double utilization);

}  // namespace orrery
