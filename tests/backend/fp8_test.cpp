#include "backend/fp8.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "backend/core/philox.hpp"

using namespace orrery;

namespace {

constexpr Float8 both[] = {Float8::e4m3, Float8::e5m2};
constexpr std::uint8_t largest_code(Float8 type) { return type == Float8::e4m3 ? 0x7e : 0x7b; }

// The pattern of the nearest number, of two that are as near the even one.
std::uint8_t nearest(float value, Float8 type) {
  std::uint8_t best = 0;
  for (int code = 1; code <= largest_code(type); ++code) {
    const auto distance = [&](int of) {
      return std::fabs(static_cast<double>(from_fp8(static_cast<std::uint8_t>(of), type)) -
                       std::fabs(static_cast<double>(value)));
    };
    if (distance(code) < distance(best) || (distance(code) == distance(best) && code % 2 == 0))
      best = static_cast<std::uint8_t>(code);
  }
  return static_cast<std::uint8_t>(best | (std::signbit(value) ? 0x80U : 0U));
}

}  // namespace

// Micikevicius et al. 2022, table 1.
TEST_CASE("the numbers of E4M3 and E5M2 are those of their paper") {
  CHECK(from_fp8(0x7e) == 448);
  CHECK(from_fp8(0x08) == 0x1p-6F);  // the least normal one
  CHECK(from_fp8(0x01) == 0x1p-9F);
  CHECK(std::isnan(from_fp8(0x7f)));
  CHECK(from_fp8(0x7b, Float8::e5m2) == 57344);
  CHECK(from_fp8(0x04, Float8::e5m2) == 0x1p-14F);
  CHECK(from_fp8(0x01, Float8::e5m2) == 0x1p-16F);
  CHECK(from_fp8(0x7c, Float8::e5m2) == std::numeric_limits<float>::infinity());
  for (const int nan : {0x7d, 0x7e, 0x7f})
    CHECK(std::isnan(from_fp8(static_cast<std::uint8_t>(nan), Float8::e5m2)));
  CHECK(from_fp8(0xb8) == -1);
  CHECK(from_fp8(0xbc, Float8::e5m2) == -1);
}

TEST_CASE("every number in 8 bits is rounded to itself") {
  for (const Float8 type : both)
    for (int sign : {0, 0x80})
      for (int code = 0; code <= largest_code(type); ++code) {
        const auto bits = static_cast<std::uint8_t>(sign | code);
        REQUIRE(to_fp8(from_fp8(bits, type), type) == bits);
      }
}

TEST_CASE("numbers are rounded to the nearest in 8 bits, ties to the even one") {
  const Philox philox(1, Purpose::user);
  for (const Float8 type : both) {
    for (std::uint64_t i = 0; i < 2000; ++i) {
      const auto x = static_cast<float>(philox.normal(i)) *
                     std::ldexp(1.0F, static_cast<int>(philox.below(i + 5000, 24)) - 16);
      REQUIRE(to_fp8(x, type) == nearest(x, type));
    }
    for (int code = 0; code < largest_code(type); ++code) {
      const float low = from_fp8(static_cast<std::uint8_t>(code), type),
                  high = from_fp8(static_cast<std::uint8_t>(code + 1), type),
                  middle = (low + high) / 2;
      for (const float x : {middle, std::nextafter(middle, low), std::nextafter(middle, high)}) {
        REQUIRE(to_fp8(x, type) == nearest(x, type));
        REQUIRE(to_fp8(-x, type) == nearest(-x, type));
      }
    }
  }
}

TEST_CASE("what is too large for 8 bits becomes the largest number, and no number stays none") {
  for (const Float8 type : both) {
    for (const float x :
         {1e6F, std::numeric_limits<float>::max(), std::numeric_limits<float>::infinity()}) {
      CHECK(from_fp8(to_fp8(x, type), type) == largest_of(type));
      CHECK(from_fp8(to_fp8(-x, type), type) == -largest_of(type));
    }
    CHECK(std::isnan(from_fp8(to_fp8(NAN, type), type)));
  }
}

TEST_CASE("a scale makes the largest magnitude the type's largest, or its power of two") {
  for (const Fp8Scaling scaling : {Fp8Scaling::tensor, Fp8Scaling::block}) {
    CHECK(fp8_scale(scaling, 7, Float8::e4m3) == 64);
    CHECK(fp8_scale(scaling, 7, Float8::e5m2) == 8192);
    CHECK(fp8_scale(scaling, 0, Float8::e4m3) == 1);
    CHECK(fp8_scale(scaling, std::numeric_limits<float>::infinity(), Float8::e4m3) == 1);
    CHECK(fp8_scale(scaling, 1e-44F, Float8::e5m2) == std::numeric_limits<float>::max());
  }
  // 256 is the power of two of 448: what is from there to 512 keeps its scale, and may saturate.
  for (const float largest : {256.0F, 448.0F, 511.0F})
    CHECK(fp8_scale(Fp8Scaling::mx, largest, Float8::e4m3) == 1);
  CHECK(fp8_scale(Fp8Scaling::mx, 512, Float8::e4m3) == 0.5F);
  CHECK(fp8_scale(Fp8Scaling::mx, 1, Float8::e4m3) == 256);
  CHECK(fp8_scale(Fp8Scaling::mx, 0, Float8::e4m3) == 1);
  CHECK(fp8_scale(Fp8Scaling::mx, 1e-44F, Float8::e4m3) == 0x1p127F);
}

TEST_CASE("a product says how its operands are rounded, and costs what fp8 costs") {
  const Kernel plain = Kernel::gemm(3, 4, 5, Dtype::bf16);
  CHECK(fp8_of(plain) == Fp8Product{});
  for (const Fp8Scaling scaling : {Fp8Scaling::tensor, Fp8Scaling::block, Fp8Scaling::mx})
    for (const Float8 a : both)
      for (const bool squares : {false, true}) {
        const Fp8Product how{scaling, a, Float8::e5m2, squares};
        const Kernel product = in_fp8(plain, how);
        CHECK(fp8_of(product) == how);
        CHECK(cost(product).read == Bytes(3 * 5 + 5 * 4));
        CHECK(cost(product).matrix == cost(plain).matrix);
      }
}
