// Types of at most 8 bits: those of backend/fp8.hpp, and others as lists of their magnitudes.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "backend/fp8.hpp"

namespace orrery {

class NarrowType {
 public:
  // "fp8-e4m3", "fp8-e5m2", "int8", or "fp4", of a sign and an exponent (E3M0).
  explicit NarrowType(const std::string& name);

  float largest() const { return float8_ ? largest_of(*float8_) : magnitudes_.back(); }
  // The code of x / scale, rounded to the nearest magnitude, ties to the even place in the list,
  // which is the even mantissa; what is larger than the largest becomes that. 0 where the scale is.
  unsigned code_of(float x, float scale) const;
  float value_of(unsigned code, float scale) const {
    if (float8_) return from_fp8(static_cast<std::uint8_t>(code), *float8_) * scale;
    const float value = magnitudes_[code & (sign_bit_ - 1)] * scale;
    return (code & sign_bit_) != 0 ? -value : value;
  }

 private:
  std::optional<Float8> float8_;
  std::vector<float> magnitudes_;  // of other types, ascending from 0
  unsigned sign_bit_;
};

}  // namespace orrery
