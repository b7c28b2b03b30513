#include "backend/fp8.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace orrery {

namespace {

constexpr std::uint32_t nan_code = 0x7f, infinity_code = 0x7c;  // the latter of E5M2
struct Layout {
  int mantissa, bias;
  std::uint32_t largest;  // as bits
  float normal, units;    // the least normal number; the least number times this is 1
};
constexpr Layout layout_of(Float8 type) {
  return type == Float8::e4m3 ? Layout{3, 7, 0x7e, 0x1p-6F, 0x1p9F}
                              : Layout{2, 15, 0x7b, 0x1p-14F, 0x1p16F};
}

}  // namespace

std::uint8_t to_fp8(float value, Float8 type) {
  const Layout l = layout_of(type);
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 24) & 0x80U;
  if (std::isnan(value)) return static_cast<std::uint8_t>(sign | nan_code);
  const float magnitude = std::fabs(value);
  std::uint32_t code = 0;
  if (magnitude < l.normal) {  // a whole number of the least one
    code = static_cast<std::uint32_t>(std::lrint(magnitude * l.units));
  } else {
    const int dropped = 23 - l.mantissa;
    const std::uint32_t m = bits & 0x7fffffffU;
    const std::uint32_t rounded = m + ((1U << (dropped - 1)) - 1) + ((m >> dropped) & 1U);
    code = (rounded >> dropped) - (static_cast<std::uint32_t>(127 - l.bias) << l.mantissa);
  }
  return static_cast<std::uint8_t>(sign | std::min(code, l.largest));
}

float from_fp8(std::uint8_t bits, Float8 type) {
  const Layout l = layout_of(type);
  const std::uint32_t code = bits & 0x7fU, fraction = code & ((1U << l.mantissa) - 1);
  const int exponent = static_cast<int>(code >> l.mantissa);
  float value = 0;
  if (type == Float8::e5m2 && code == infinity_code)
    value = std::numeric_limits<float>::infinity();
  else if (code > l.largest)
    value = std::numeric_limits<float>::quiet_NaN();
  else if (exponent == 0)
    value = std::ldexp(static_cast<float>(fraction), 1 - l.bias - l.mantissa);
  else
    value = std::ldexp(static_cast<float>((1U << l.mantissa) | fraction),
                       exponent - l.bias - l.mantissa);
  return (bits & 0x80U) != 0 ? -value : value;
}

// In the sixth size of a product, which nothing else uses.
Kernel in_fp8(Kernel product, const Fp8Product& how) {
  product.dims[5] = static_cast<std::int64_t>(how.scaling) + (how.a == Float8::e5m2 ? 4 : 0) +
                    (how.b == Float8::e5m2 ? 8 : 0) + (how.b_in_squares ? 16 : 0);
  product.dtype = Dtype::fp8;
  if (how.scaling == Fp8Scaling::tensor)
    product.roles |=
        pack_roles({Role::none, Role::none, Role::none, Role::read, Role::read, Role::read});
  return product;
}

Fp8Product fp8_of(const Kernel& product) {
  const std::int64_t code = product.dims[5];
  return {static_cast<Fp8Scaling>(code & 3), (code & 4) != 0 ? Float8::e5m2 : Float8::e4m3,
          (code & 8) != 0 ? Float8::e5m2 : Float8::e4m3, (code & 16) != 0};
}

// dims: elements of `stored` read and written, the scaling
Kernel fp8_cast(std::int64_t n, Fp8Scaling scaling, Dtype stored) {
  std::int64_t scales = 0;  // bytes
  if (scaling == Fp8Scaling::block) scales = 4 * ((n + 127) / 128);
  if (scaling == Fp8Scaling::mx) scales = (n + 31) / 32;
  const bool of_tensor = scaling == Fp8Scaling::tensor;
  Kernel kernel =
      Kernel::streaming("fp8.cast", of_tensor ? 2 * n : n, 2 * (n + scales) / size_of(stored),
                        stored, {Role::read, Role::write});
  kernel.dims[2] = static_cast<std::int64_t>(scaling);
  return kernel;
}

bool is_fp8_cast(const Kernel& kernel) { return kernel.op == Op::streaming && kernel.dims[2] != 0; }

float fp8_scale(Fp8Scaling scaling, float largest, Float8 type) {
  if (largest == 0 || !std::isfinite(largest)) return 1;
  if (scaling == Fp8Scaling::mx) {
    const int exponent = std::ilogb(largest) - std::ilogb(largest_of(type));
    return std::ldexp(1.0F, std::min(-exponent, 127));
  }
  const float scale = largest_of(type) / largest;
  return std::isinf(scale) ? std::numeric_limits<float>::max() : scale;
}

}  // namespace orrery
