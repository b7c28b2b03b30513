#include "algorithms/codecs/narrow_type.hpp"

#include <algorithm>
#include <cmath>

namespace orrery {

namespace {

std::optional<Float8> float8_of(const std::string& name) {
  if (name == "fp8-e4m3") return Float8::e4m3;
  if (name == "fp8-e5m2") return Float8::e5m2;
  return std::nullopt;
}

std::vector<float> magnitudes_of(const std::string& name) {
  if (float8_of(name)) return {};
  std::vector<float> all{0};
  if (name == "fp4")
    for (int e = -6; e <= 0; ++e) all.push_back(std::ldexp(1.0F, e));
  else
    for (int i = 1; i <= 127; ++i) all.push_back(static_cast<float>(i));
  return all;
}

}  // namespace

NarrowType::NarrowType(const std::string& name)
    : float8_(float8_of(name)),
      magnitudes_(magnitudes_of(name)),
      sign_bit_(name == "fp4" ? 8U : 128U) {}

unsigned NarrowType::code_of(float x, float scale) const {
  if (scale == 0) return 0;
  if (float8_) return to_fp8(x / scale, *float8_);
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
