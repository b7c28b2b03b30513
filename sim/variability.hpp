// How GPUs of one kind differ, and kernels of one GPU from run to run: a factor on the duration of
// every operation that a device carries out.
//
//   duration = nominal x slowness(rank) x (1 + jitter x unevenness x z),   z = sqrt(3) (u1 + u2 +
//   u3 + u4 - 2)
//
// The u are uniform in [0, 1) and a pure function of (seed, rank, stream, ordinal): results depend
// neither on the order of events nor on who simulates a rank. z has mean 0, variance 1 and the
// shape of a bell that ends at +-3.47 (the Irwin-Hall distribution of four), so a factor never
// reaches 0, its mean is exactly 1, and no transcendental function is on the hot path. The kernels
// of a sequence vary independently; their sum varies by unevenness() of it.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "backend/core/error.hpp"
#include "backend/core/philox.hpp"
#include "backend/core/units.hpp"

namespace orrery::sim {

class Variability {
 public:
  static constexpr double most_jitter = 0.25;

  Variability() = default;  // none
  // `slowness`, by rank: what durations of its kernels are multiplied by; empty: all 1. `jitter`:
  // standard deviation of a kernel's duration over its mean, 0 to most_jitter.
  Variability(std::vector<double> slowness, double jitter, std::uint64_t seed)
      : slowness_(std::move(slowness)), jitter_(jitter), seed_(seed) {
    ORRERY_ASSERT(jitter >= 0 && jitter <= most_jitter, "jitter is between 0 and 0.25");
  }

  // Whether every operation takes its nominal time.
  bool none() const { return slowness_.empty() && jitter_ == 0; }
  bool jitters() const { return jitter_ > 0; }
  double slowness(std::uint32_t rank) const { return slowness_.empty() ? 1.0 : slowness_[rank]; }

  // What operation `ordinal` of a rank's stream takes instead of its nominal time. `unevenness` is
  // 1 for a kernel.
  double factor(std::uint32_t rank, std::uint16_t stream, std::uint64_t ordinal,
                double unevenness) const {
    if (jitter_ == 0) return slowness(rank);
    const PhiloxBlock u =
        Philox(seed_, Purpose::jitter, rank).block(std::uint64_t{stream} << 48 | ordinal);
    const double sum = 0x1p-32 * (static_cast<double>(u[0]) + static_cast<double>(u[1]) +
                                  static_cast<double>(u[2]) + static_cast<double>(u[3]));
    const double z = 1.7320508075688772 * (sum - 2);
    return slowness(rank) * (1 + jitter_ * unevenness * z);
  }

  static Time scaled(Time nominal, double factor) {
    if (factor == 1) return nominal;
    return Time(static_cast<std::uint64_t>(
        std::llround(static_cast<double>(nominal.picoseconds) * factor)));
  }

 private:
  std::vector<double> slowness_;
  double jitter_ = 0;
  std::uint64_t seed_ = 0;
};

}  // namespace orrery::sim
