#include "backend/dtype.hpp"

#include <array>
#include <bit>
#include <cmath>

#include "backend/core/error.hpp"

namespace orrery {

namespace {
constexpr std::array<const char*, 9> dtype_names{"fp32",  "bf16",  "fp16",  "fp8", "fp64",
                                                 "int32", "int64", "uint8", "fp4"};
}  // namespace

const char* name(Dtype type) { return dtype_names.at(static_cast<std::size_t>(type)); }

Dtype dtype_from(const std::string& text) {
  for (std::size_t i = 0; i < dtype_names.size(); ++i)
    if (text == dtype_names[i]) return static_cast<Dtype>(i);
  throw Error(Category::config, "unknown element type '" + text + "'");
}

std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

float from_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

std::uint16_t to_fp16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>(sign | 0x7e00U);
  if (magnitude >= 65520.0F) return static_cast<std::uint16_t>(sign | 0x7c00U);
  if (magnitude < 0x1p-14F) {  // subnormal: an integer count of 2^-24, rounded to even
    return static_cast<std::uint16_t>(sign |
                                      static_cast<std::uint32_t>(std::lrint(magnitude * 0x1p24F)));
  }
  const std::uint32_t m = bits & 0x7fffffffU;
  const std::uint32_t rounded = m + 0xfffU + ((m >> 13) & 1U);
  return static_cast<std::uint16_t>(sign | ((rounded - (112U << 23)) >> 13));
}

float from_fp16(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000U) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fU;
  const std::uint32_t fraction = half & 0x3ffU;
  if (exponent == 0) return (sign != 0 ? -1.0F : 1.0F) * static_cast<float>(fraction) * 0x1p-24F;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000U | (fraction << 13));
  return std::bit_cast<float>(sign | ((exponent + 112U) << 23) | (fraction << 13));
}

}  // namespace orrery
