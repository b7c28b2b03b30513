// Elementwise kernels, changes of type, and reductions to one number.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "backend/cpu/operands.hpp"
#include "backend/cpu/reduce.hpp"
#include "backend/fp8.hpp"

namespace orrery::cpu {

namespace {

// As to_bf16 and from_bf16 in dtype.hpp, inline so that loops vectorise.
std::uint16_t round_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  return static_cast<std::uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? (bits >> 16) | 0x40U
                                                                       : rounded);
}
float expand_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

}  // namespace

void expand_to_fp32(const View& from, float* to) {
  const auto* byte = static_cast<const std::uint8_t*>(from.data);
  const auto* half = static_cast<const std::uint16_t*>(from.data);
  const auto* wide = static_cast<const double*>(from.data);
  if (from.dtype == Dtype::bf16)
    for (std::int64_t i = 0; i < from.elements; ++i) to[i] = expand_bf16(half[i]);
  else if (from.dtype == Dtype::fp16)
    for (std::int64_t i = 0; i < from.elements; ++i) to[i] = from_fp16(half[i]);
  else if (from.dtype == Dtype::fp8)
    for (std::int64_t i = 0; i < from.elements; ++i) to[i] = from_fp8(byte[i]);
  else
    for (std::int64_t i = 0; i < from.elements; ++i) to[i] = static_cast<float>(wide[i]);
}

void round_from_fp32(const float* from, const View& to) {
  auto* byte = static_cast<std::uint8_t*>(to.data);
  auto* half = static_cast<std::uint16_t*>(to.data);
  auto* wide = static_cast<double*>(to.data);
  if (to.dtype == Dtype::bf16)
    for (std::int64_t i = 0; i < to.elements; ++i) half[i] = round_to_bf16(from[i]);
  else if (to.dtype == Dtype::fp16)
    for (std::int64_t i = 0; i < to.elements; ++i) half[i] = to_fp16(from[i]);
  else if (to.dtype == Dtype::fp8)
    for (std::int64_t i = 0; i < to.elements; ++i) byte[i] = to_fp8(from[i]);
  else
    for (std::int64_t i = 0; i < to.elements; ++i) wide[i] = static_cast<double>(from[i]);
}

void cast(const View& from, const View& to) {
  const auto stored = [](Dtype dtype) { return dtype == Dtype::bf16 || dtype == Dtype::fp16; };
  if (from.dtype == to.dtype)
    std::memmove(to.data, from.data,
                 static_cast<std::size_t>(bytes_of(from.elements, from.dtype).value));
  else if (to.dtype == Dtype::fp32 && stored(from.dtype))
    expand_to_fp32(from, static_cast<float*>(to.data));
  else if (from.dtype == Dtype::fp32 && stored(to.dtype))
    round_from_fp32(static_cast<const float*>(from.data), to);
  else
    for (std::int64_t i = 0; i < from.elements; ++i) set_element(to, i, element_of(from, i));
}

void fill(const View& to, double value) {
  if (to.dtype == Dtype::fp32)
    std::fill_n(static_cast<float*>(to.data), to.elements, static_cast<float>(value));
  else
    for (std::int64_t i = 0; i < to.elements; ++i) set_element(to, i, value);
}

// y = a x + b y. A coefficient 0 drops its term, so that y may hold anything when b is 0.
void linear_combination(const Kernel& kernel, const Operands& operands) {
  const std::int64_t n = kernel.dims[0];
  const double a = kernel.scalars[0] * operands.scalar_or(2, 1.0);
  const double b = kernel.scalars[1] * operands.scalar_or(3, 1.0);
  const View& x_view = operands.any(0, n);
  const View& y_view = operands.any(1, n);
  if (x_view.dtype != Dtype::fp32 || y_view.dtype != Dtype::fp32) {
    for (std::int64_t i = 0; i < n; ++i)
      set_element(
          y_view, i,
          (a == 0 ? 0 : a * element_of(x_view, i)) + (b == 0 ? 0 : b * element_of(y_view, i)));
    return;
  }
  const auto* x = static_cast<const float*>(x_view.data);
  auto* y = static_cast<float*>(y_view.data);
  const auto af = static_cast<float>(a), bf = static_cast<float>(b);
  if (b == 0)
    for (std::int64_t i = 0; i < n; ++i) y[i] = af * x[i];
  else if (a == 0)
    for (std::int64_t i = 0; i < n; ++i) y[i] = bf * y[i];
  else
    for (std::int64_t i = 0; i < n; ++i) y[i] = af * x[i] + bf * y[i];
}

void sum_squares(const Kernel& kernel, const Operands& operands) {
  const float* x = operands.fp32(0, kernel.dims[0]);
  float* s = operands.fp32(1, 1);
  const double sum = ordered_sum(kernel.dims[0], [x](std::int64_t i) {
    const auto value = static_cast<double>(x[i]);
    return value * value;
  });
  s[0] = static_cast<float>(static_cast<double>(s[0]) + kernel.scalars[0] * sum);
}

void clip_scale(const Kernel& kernel, const Operands& operands) {
  const double norm = std::sqrt(operands.scalar(0));
  *operands.fp32(1, 1) = norm > 0    ? static_cast<float>(std::min(1.0, kernel.scalars[0] / norm))
                         : norm == 0 ? 1.0F
                                     : NAN;
}

}  // namespace orrery::cpu
