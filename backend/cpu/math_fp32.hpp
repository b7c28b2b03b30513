// Elementary functions in fp32 from +, *, / alone, so that a compiler can vectorise them without
// changing a bit: an element has one value wherever in a vector, or in its remainder, it falls.
// Internal to the kernel files.
#pragma once

#include <bit>
#include <cstdint>

namespace orrery::cpu {

// e^x to 2 ulp for x in [-87, 88]; clamped outside. NaN stays NaN. Cephes' expf (Moshier): x = n ln
// 2 + r, a polynomial in r.
static inline float exp_fp32(float x) {
  constexpr float shift =
      12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  x = x < -87.0F ? -87.0F : x;
  x = x > 88.0F ? 88.0F : x;
  const float shifted = x * 1.44269504088896341F + shift;
  const float n = shifted - shift;
  const float r = (x - n * 0.693359375F) - n * -2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  const float y = p * (r * r) + r + 1.0F;
  const std::uint32_t exponent =
      std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(shift) + 127U;
  return y * std::bit_cast<float>(exponent << 23);
}

// erf(x) to 4e-7: an odd rational function, clamped at +-4. The coefficients are those of Eigen
// (SpecialFunctionsImpl.h, generic_fast_erf_float).
static inline float erf_fp32(float x) {
  x = x < -4.0F ? -4.0F : x;
  x = x > 4.0F ? 4.0F : x;
  const float z = x * x;
  float p = z * -2.72614225801306e-10F + 2.77068142495902e-08F;
  p = p * z + -2.10102402082508e-06F;
  p = p * z + -5.69250639462346e-05F;
  p = p * z + -7.34990630326855e-04F;
  p = p * z + -2.95459980854025e-03F;
  p = p * z + -1.60960333262415e-02F;
  float q = z * -1.45660718464996e-05F + -2.13374055278905e-04F;
  q = q * z + -1.68282697438203e-03F;
  q = q * z + -7.37332916720468e-03F;
  q = q * z + -1.42647390514189e-02F;
  return (x * p) / q;
}

}  // namespace orrery::cpu
