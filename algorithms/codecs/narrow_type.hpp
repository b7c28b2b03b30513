// Types of at most 8 bits, as lists of the magnitudes that they have.
#pragma once

#include <string>
#include <vector>

namespace orrery {

class NarrowType {
 public:
  // "fp8-e4m3", "fp8-e5m2" (Micikevicius et al. 2022, arXiv 2209.05433), "int8", or "fp4", of a
  // sign and an exponent (E3M0).
  explicit NarrowType(const std::string& name);

  float largest() const { return magnitudes_.back(); }
  // The code of x / scale, rounded to the nearest magnitude, ties to the even place in the list,
  // which is the even mantissa; what is larger than the largest becomes that. 0 where the scale is.
  unsigned code_of(float x, float scale) const;
  float value_of(unsigned code, float scale) const {
    const float value = magnitudes_[code & (sign_bit_ - 1)] * scale;
    return (code & sign_bit_) != 0 ? -value : value;
  }

 private:
  std::vector<float> magnitudes_;  // ascending from 0
  unsigned sign_bit_;
};

}  // namespace orrery
