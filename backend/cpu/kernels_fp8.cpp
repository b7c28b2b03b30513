// Products whose operands are rounded to 8 bits as they are read (backend/fp8.hpp).
#include <algorithm>
#include <array>
#include <cmath>

#include "backend/cpu/products.hpp"
#include "backend/fp8.hpp"

namespace orrery::cpu {

namespace {

constexpr std::int64_t block = 128, mx_block = 32;

// All numbers of a type.
using Numbers = std::array<float, 256>;
Numbers numbers_of(Float8 type) {
  Numbers all{};
  for (std::size_t i = 0; i < all.size(); ++i)
    all[i] = from_fp8(static_cast<std::uint8_t>(i), type);
  return all;
}
const Numbers& numbers(Float8 type) {
  static const Numbers e4m3 = numbers_of(Float8::e4m3), e5m2 = numbers_of(Float8::e5m2);
  return type == Float8::e4m3 ? e4m3 : e5m2;
}

float rounded(float x, float scale, Float8 type) { return numbers(type)[to_fp8(x * scale, type)]; }

// Of what is a number.
float largest_of(const float* x, std::int64_t n) {
  float largest = 0;
  for (std::int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
  return largest;
}

// An operand of one product: element (i, depth) at i * step + depth * depth_step.
struct Operand8 {
  std::int64_t rows, depth, step, depth_step;
};

// y = the numbers that x stands for when it is rounded by blocks of tall x `wide` along the depth.
void round_blocks(const float* x, float* y, const Operand8& o, Fp8Scaling scaling, Float8 type,
                  std::int64_t tall, std::int64_t wide) {
  const auto each = [&](std::int64_t row, std::int64_t at, const auto& action) {
    for (std::int64_t i = row; i < std::min(row + tall, o.rows); ++i)
      for (std::int64_t j = at; j < std::min(at + wide, o.depth); ++j)
        action(i * o.step + j * o.depth_step);
  };
  for (std::int64_t row = 0; row < o.rows; row += tall)
    for (std::int64_t at = 0; at < o.depth; at += wide) {
      float largest = 0;
      each(row, at, [&](std::int64_t i) { largest = std::max(largest, std::fabs(x[i])); });
      const float scale = fp8_scale(scaling, largest, type), inverse = 1 / scale;
      each(row, at, [&](std::int64_t i) { y[i] = rounded(x[i], scale, type) * inverse; });
    }
}

// A group's operands, rounded.
struct Rounding {
  Fp8Product how;
  float scale_a, scale_b;

  void tensor(const float* x, float* y, std::int64_t n, float scale, Float8 type) const {
    for (std::int64_t i = 0; i < n; ++i) y[i] = rounded(x[i], scale, type);
  }
  void a(const Kernel& kernel, const float* x, float* y) const {
    const std::int64_t m = kernel.dims[0], k = kernel.dims[2];
    if (how.scaling == Fp8Scaling::tensor) return tensor(x, y, m * k, scale_a, how.a);
    const Operand8 o = kernel.transpose_a ? Operand8{m, k, 1, m} : Operand8{m, k, k, 1};
    round_blocks(x, y, o, how.scaling, how.a, 1, how.scaling == Fp8Scaling::mx ? mx_block : block);
  }
  void b(const Kernel& kernel, const float* x, float* y) const {
    const std::int64_t n = kernel.dims[1], k = kernel.dims[2];
    if (how.scaling == Fp8Scaling::tensor) return tensor(x, y, n * k, scale_b, how.b);
    const Operand8 o = kernel.transpose_b ? Operand8{n, k, k, 1} : Operand8{n, k, 1, n};
    round_blocks(x, y, o, how.scaling, how.b, how.b_in_squares ? block : 1,
                 how.scaling == Fp8Scaling::mx ? mx_block : block);
  }
};

}  // namespace

// With a scale per tensor the sum is over the rounded numbers and divided once; with scales per
// block these are divided before.
void multiply_in_fp8(const Kernel& kernel, const Operands& operands) {
  const auto [m, n, k, with_bias, groups_or_0, code] = kernel.dims;
  const std::int64_t groups = kernel.op == Op::grouped_gemm ? groups_or_0 : 1;
  const float* a = operands.fp32(0, groups * m * k);
  const float* b = operands.fp32(1, groups * k * n);
  float* c = operands.fp32(2, groups * m * n);
  const float* bias = with_bias != 0 ? operands.fp32(3, n) : nullptr;
  Rounding rounding{fp8_of(kernel), 1, 1};
  if (rounding.how.scaling == Fp8Scaling::tensor) {
    const auto scale = [&](const float* x, std::int64_t elements, std::size_t largest,
                           Float8 type) {
      return fp8_scale(Fp8Scaling::tensor,
                       operands.has(largest) ? *operands.fp32(largest, 1) : largest_of(x, elements),
                       type);
    };
    rounding.scale_a = scale(a, groups * m * k, fp8_largest_a, rounding.how.a);
    rounding.scale_b = scale(b, groups * k * n, fp8_largest_b, rounding.how.b);
  }
  const float inverse_a = 1 / rounding.scale_a, inverse_b = 1 / rounding.scale_b;
  thread_local Scratch scratch_a, scratch_b, scratch_c;
  float *a8 = scratch_a.take(m * k), *b8 = scratch_b.take(k * n), *sum = scratch_c.take(m * n);
  Kernel plain = kernel;
  plain.accumulate = false;
  for (std::int64_t group = 0; group < groups; ++group) {
    rounding.a(kernel, a + group * m * k, a8);
    rounding.b(kernel, b + group * k * n, b8);
    multiply(plain, a8, b8, sum, nullptr);
    float* to = c + group * m * n;
    for (std::int64_t i = 0; i < m * n; ++i) {
      const float product = sum[i] * inverse_a * inverse_b;
      to[i] =
          (kernel.accumulate ? to[i] + product : product) + (bias != nullptr ? bias[i % n] : 0.0F);
    }
  }
}

void fp8_cast(const Operands& operands) {
  if (!operands.has(1)) return;
  const std::int64_t n = operands.any(0, 0).elements;
  *operands.fp32(1, 1) = largest_of(operands.fp32(0, n), n);
}

}  // namespace orrery::cpu
