// Numbers in 8 bits, and products that round their operands to them.
//
// E4M3 (at most 448, no infinity) and E5M2 (at most 57344): Micikevicius et al. 2022, "FP8 Formats
// for Deep Learning" (arXiv 2209.05433). An operand is multiplied by a scale, so that its largest
// number becomes the type's largest, and rounded; the product is over the rounded numbers, in fp32.
//
//   tensor  one scale for all of an operand: s = largest of the type / largest magnitude, as
//           "current scaling" of NVIDIA/TransformerEngine: gradients of outputs in E5M2, all else
//           in E4M3. The product is divided by both scales.
//   block   for each 128 numbers along the depth; of weights for each 128 x 128 (DeepSeek-AI 2024,
//           arXiv 2412.19437, section 3.3). All in E4M3.
//   mx      for each 32 numbers along the depth a power of two, that of the largest magnitude less
//           that of the type's largest (Open Compute Project, "OCP Microscaling Formats (MX)",
//           v1.0, section 6.3), so that the largest may saturate. All in E4M3.
//
// Blocks end with the depth. Where an operand has no number but 0, its scale is 1.
#pragma once

#include <cstdint>

#include "backend/kernel.hpp"

namespace orrery {

enum class Float8 : std::uint8_t { e4m3, e5m2 };

// Round to nearest even; what is too large becomes the type's largest, NaN stays NaN. Storage of
// Dtype::fp8 is E4M3.
std::uint8_t to_fp8(float value, Float8 type = Float8::e4m3);
float from_fp8(std::uint8_t bits, Float8 type = Float8::e4m3);
constexpr float largest_of(Float8 type) { return type == Float8::e4m3 ? 448.0F : 57344.0F; }

enum class Fp8Scaling : std::uint8_t { none, tensor, block, mx };

// How the operands A and B of a product are rounded.
struct Fp8Product {
  Fp8Scaling scaling = Fp8Scaling::none;  // none: they are taken as stored
  Float8 a = Float8::e4m3, b = Float8::e4m3;
  bool b_in_squares = false;  // blocks of B are 128 x 128
  bool operator==(const Fp8Product&) const = default;
};

// A gemm or grouped_gemm in fp8 that rounds its operands as it reads them, from whatever type they
// are stored in. Two more operands, (largest A r), (largest B r), may give the largest magnitude of
// each with a scale per tensor, as `fp8_cast` leaves it; without them the product finds it.
Kernel in_fp8(Kernel product, const Fp8Product& how);
Fp8Product fp8_of(const Kernel& product);
// Their places among the operands.
inline constexpr std::size_t fp8_largest_a = 4, fp8_largest_b = 5;

// X r, (largest w). The cast of an operand of n elements of `stored`, priced as read `reads` times
// and written as it is and transposed, with the scales of both. What it finds is the largest
// magnitude, in the type of X; the numbers themselves are rounded where products read them, so that
// nothing but their sources has to be kept.
Kernel fp8_cast(std::int64_t n, Fp8Scaling scaling, Dtype stored);
bool is_fp8_cast(const Kernel& kernel);

// What an operand is multiplied by, and its rounded numbers are divided by.
float fp8_scale(Fp8Scaling scaling, float largest, Float8 type);

}  // namespace orrery
