// An imperfect cluster: GPUs of unequal speed, kernels that vary, links below their rate.
//
// Every number is drawn from a distribution with mean 1 by a counter-based generator: the same seed
// gives the same cluster, whatever is simulated on it and in which order.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backend/core/config.hpp"
#include "platforms/machine.hpp"

namespace orrery {

// Distributions with mean 1 and standard deviation `spread`; a normal one is cut off at 0.05.
enum class Distribution : std::uint8_t { normal, uniform, log_normal };

struct SlowGpusSpec {
  std::vector<std::int64_t> gpus;  // ranks
  double speed = 1;
};
void describe(Fields<SlowGpusSpec>& f);

// All kernels of a GPU take their time over its speed.
struct GpuSpeedSpec {
  Distribution distribution = Distribution::normal;
  double spread = 0;
  std::vector<SlowGpusSpec> slow;  // multiply what was drawn
};
void describe(Fields<GpuSpeedSpec>& f);

// Links in a worse (or better) condition. `links` names a tier ("nic", "scale-up", "leaf", …), one
// link ("node3.nic0.out"), or several by the part before a dot ("node3.nic0", "node3"). Each of
// them is affected with probability `share`, and then has `bandwidth` times its bandwidth, times a
// number drawn with `spread`. Entries multiply.
struct LinkConditionSpec {
  std::string links;
  double bandwidth = 1, share = 1, spread = 0;
  Distribution distribution = Distribution::normal;
};
void describe(Fields<LinkConditionSpec>& f);

struct ConditionsSpec {
  std::optional<std::uint64_t> seed;  // absent: the run's
  GpuSpeedSpec gpu_speed;
  double jitter = 0;  // standard deviation of a kernel's duration over its mean
  std::vector<LinkConditionSpec> links;

  bool perfect() const {
    return gpu_speed.spread == 0 && gpu_speed.slow.empty() && jitter == 0 && links.empty();
  }
};
void describe(Fields<ConditionsSpec>& f);

// Number `index` of a stream of a distribution.
double draw(Distribution distribution, double spread, std::uint64_t seed, std::uint32_t stream,
            std::uint64_t index);

// What the durations of each GPU's kernels are multiplied by; empty: 1. Error{config} where a slow
// GPU is not there.
std::vector<double> gpu_slowness(const GpuSpeedSpec& spec, int gpus, std::uint64_t seed);

// What each link's bandwidth is multiplied by; empty: 1. Error{config} where a name stands for no
// link.
std::vector<double> link_factors(const std::vector<LinkConditionSpec>& specs,
                                 const std::vector<LinkSpec>& links, std::uint64_t seed);

}  // namespace orrery
