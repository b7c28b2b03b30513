// Element types. 16-bit and narrower types are storage: arithmetic on them is done in fp32.
#pragma once

#include <cstdint>
#include <string>

#include "backend/core/units.hpp"

namespace orrery {

// fp4 is a type of products' operands alone, two elements to a byte: no tensor has it.
enum class Dtype : std::uint8_t { fp32, bf16, fp16, fp8, fp64, int32, int64, uint8, fp4 };

constexpr std::int64_t size_of(Dtype type) {
  switch (type) {
    case Dtype::fp64:
    case Dtype::int64:
      return 8;
    case Dtype::fp32:
    case Dtype::int32:
      return 4;
    case Dtype::bf16:
    case Dtype::fp16:
      return 2;
    case Dtype::fp8:
    case Dtype::uint8:
    case Dtype::fp4:  // of one element; see bytes_of
      return 1;
  }
  return 0;
}
constexpr Bytes bytes_of(std::int64_t elements, Dtype type) {
  return Bytes(type == Dtype::fp4 ? (elements + 1) / 2 : elements * size_of(type));
}
const char* name(Dtype);               // "bf16"
Dtype dtype_from(const std::string&);  // Error{config} for an unknown name

// bf16 as storage: round to nearest even, NaN stays NaN.
std::uint16_t to_bf16(float);
float from_bf16(std::uint16_t);
// IEEE half as storage: round to nearest even, overflow to infinity.
std::uint16_t to_fp16(float);
float from_fp16(std::uint16_t);

}  // namespace orrery
