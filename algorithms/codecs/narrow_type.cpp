#include "algorithms/codecs/narrow_type.hpp"

#include <algorithm>
#include <cmath>

namespace orrery {

namespace {

// Sign, `exponent` bits, `mantissa` bits, with subnormal numbers; at most `largest`.
std::vector<float> small_floats(int exponent, int mantissa, int bias, float largest) {
  std::vector<float> all;
  for (int e = 0; e < 1 << exponent; ++e)
    for (int m = 0; m < 1 << mantissa; ++m) {
      const float fraction = std::ldexp(static_cast<float>(m), -mantissa);
      const float value =
          e == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, e - bias);
      if (value <= largest) all.push_back(value);
    }
  return all;
}

std::vector<float> magnitudes_of(const std::string& name) {
  if (name == "fp8-e4m3") return small_floats(4, 3, 7, 448);
  if (name == "fp8-e5m2") return small_floats(5, 2, 15, 57344);
  std::vector<float> all{0};
  if (name == "fp4")
    for (int e = -6; e <= 0; ++e) all.push_back(std::ldexp(1.0F, e));
  else
    for (int i = 1; i <= 127; ++i) all.push_back(static_cast<float>(i));
  return all;
}

}  // namespace

NarrowType::NarrowType(const std::string& name)
    : magnitudes_(magnitudes_of(name)), sign_bit_(name == "fp4" ? 8U : 128U) {}

unsigned NarrowType::code_of(float x, float scale) const {
  if (scale == 0) return 0;
  const float wanted = std::fabs(x) / scale;
  auto above = static_cast<std::size_t>(
      std::lower_bound(magnitudes_.begin(), magnitudes_.end(), wanted) - magnitudes_.begin());
  above = std::min(above, magnitudes_.size() - 1);
  std::size_t nearest = above;
  if (above > 0) {
    const float up = magnitudes_[above] - wanted, down = wanted - magnitudes_[above - 1];
    if (down < up || (down == up && above % 2 == 1)) nearest = above - 1;
  }
  return static_cast<unsigned>(nearest) | (std::signbit(x) ? sign_bit_ : 0U);
}

}  // namespace orrery
