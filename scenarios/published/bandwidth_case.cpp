#include "scenarios/published/bandwidth_case.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "scenarios/published/not_scored.hpp"
#include "scenarios/published/prediction.hpp"

namespace orrery {

namespace {

// Fragment p holds layers p, p + P, …; it is exchanged after steps t with t = p H / P mod H.
bool exchanged(const BandwidthCase& c, std::int64_t layer, std::int64_t step) {
  const std::int64_t size = c.fragment_layers == 0 ? c.layers : c.fragment_layers;
  const std::int64_t fragments = (c.layers + size - 1) / size;
  return step % c.sync_every == layer % fragments * c.sync_every / fragments % c.sync_every;
}

// Of an architecture that a source names in their stead.
std::int64_t layers_of(const std::string& architecture) {
  if (architecture == "Chinchilla")
    return 48;                               // of 10B: Streaming DiLoCo's, arXiv 2501.18512, t. 4
  if (architecture == "Llama3") return 126;  // of 405B: arXiv 2407.21783, table 3
  if (architecture == "DeepSeek-V3") return 61;  // arXiv 2412.19437, section 4.2
  throw NotScored(fmt::format("the layers of '{}' are not known", architecture));
}

}  // namespace

double compute_utilization(const BandwidthCase& c, double bits_per_s) {
  const double node = c.step_s / static_cast<double>(3 * c.layers - 1);
  const double exchange = c.parameters * c.bits / static_cast<double>(c.layers) / bits_per_s;
  const std::int64_t settled = std::max<std::int64_t>(c.sync_every, 12), steps = 2 * settled;
  const auto layers = static_cast<std::size_t>(c.layers);
  // When an exchange is over that a layer's forward of a step waits for, by step mod (tau + 2).
  std::vector<std::vector<double>> over(static_cast<std::size_t>(c.overlap_steps) + 2,
                                        std::vector<double>(layers));
  double time = 0, link = 0, start = 0;
  for (std::int64_t step = 1; step <= steps; ++step) {
    if (step == settled + 1) start = time;
    std::vector<double>& due = over[static_cast<std::size_t>(step) % over.size()];
    for (std::size_t layer = 0; layer < layers; ++layer) time = std::max(time, due[layer]) + node;
    std::fill(due.begin(), due.end(), 0);
    std::vector<double>& later =
        over[static_cast<std::size_t>(step + 1 + c.overlap_steps) % over.size()];
    for (std::size_t layer = layers; layer-- > 0;) {
      time += layer > 0 ? 2 * node : node;  // the first layer's activations need no gradients
      if (exchanged(c, static_cast<std::int64_t>(layer), step))
        later[layer] = link = std::max(link, time) + exchange;
    }
  }
  return c.step_s * static_cast<double>(steps - settled) / (time - start);
}

double bandwidth_grid_gbit_s(int point) {
  return 0.1 * std::pow(10.0, 4.0 * point / (bandwidth_grid_points - 1));
}

double needed_gbit_s(const BandwidthCase& c, double utilization) {
  int below = 0, reached = bandwidth_grid_points;
  while (reached - below > 1) {
    const int middle = (below + reached) / 2;
    const bool reaches = compute_utilization(c, bandwidth_grid_gbit_s(middle) * 1e9) >= utilization;
    (reaches ? reached : below) = middle;
  }
  return bandwidth_grid_gbit_s(below);
}

void predict_bandwidth(const MeasuredFile&, const MeasuredCase& c, const AliasTable&,
                       const Machines&, Prediction& out) {
  const auto stated = [](const auto& figure) { return figure.value_or(0) > 0; };
  if (!stated(c.params) || !stated(c.step_s) || !stated(c.compute_utilization) ||
      !stated(c.bandwidth_gbit_s) || !stated(c.sync_every) || (c.layers && !stated(c.layers)))
    throw NotScored("the exchange is not stated");
  BandwidthCase b{.parameters = *c.params, .step_s = *c.step_s, .sync_every = *c.sync_every};
  if (c.layers) {
    b.layers = *c.layers;
  } else {
    b.layers = layers_of(word(c.arch));
    out.assumptions.push_back(
        {"layers", std::to_string(b.layers), "those of " + word(c.arch) + " as published"});
  }
  b.fragment_layers = c.fragment_layers.value_or(0);
  b.overlap_steps = c.overlap_steps.value_or(0);
  b.bits = static_cast<double>(c.outer_bits.value_or(16));
  out.unit = "Gbit/s";
  out.measured = *c.bandwidth_gbit_s;
  out.predicted = needed_gbit_s(b, *c.compute_utilization);
}

void predict_utilization(const MeasuredFile&, const MeasuredCase& c, const AliasTable&,
                         const Machines&, Prediction& out) {
  if (!c.inner_phase_s || !c.compute_utilization) throw NotScored("the phases are not stated");
  out.unit = "share of time";
  out.measured = *c.compute_utilization;
  out.predicted = *c.inner_phase_s / (*c.inner_phase_s + c.allreduce_median_s.value_or(0));
}

}  // namespace orrery
