#include "backend/dtype.hpp"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "backend/core/philox.hpp"
#include "tests/support/errors.hpp"

using namespace orrery;

namespace {

struct Format {
  std::uint16_t (*to)(float);
  float (*from)(std::uint16_t);
  std::uint16_t infinity;
};
constexpr Format bf16{to_bf16, from_bf16, 0x7f80};
constexpr Format fp16{to_fp16, from_fp16, 0x7c00};

// The nearest of all finite patterns, ties to the even pattern, in double arithmetic: what the
// conversion must give for |value| below the point where rounding reaches infinity. `guess` is a
// pattern near the answer.
std::uint16_t nearest_by_search(const Format& format, float value, std::uint16_t guess) {
  const std::uint16_t sign = guess & 0x8000U;
  const int centre = guess & 0x7fff;
  const double wanted = std::fabs(static_cast<double>(value));
  int best = -1;
  double best_distance = std::numeric_limits<double>::infinity();
  for (int p = std::max(0, centre - 3); p <= std::min<int>(format.infinity, centre + 3); ++p) {
    // Infinity stands for the next power of two, as rounding by IEEE 754 treats it.
    const double here =
        p == format.infinity
            ? 2.0 * static_cast<double>(format.from(static_cast<std::uint16_t>(p - 1))) -
                  static_cast<double>(format.from(static_cast<std::uint16_t>(p - 2)))
            : static_cast<double>(format.from(static_cast<std::uint16_t>(p)));
    const double distance = std::fabs(here - wanted);
    if (distance < best_distance || (distance == best_distance && p % 2 == 0)) {
      best = p;
      best_distance = distance;
    }
  }
  return static_cast<std::uint16_t>(sign | static_cast<unsigned>(best));
}

void check_round_trip(const Format& format) {
  for (std::uint32_t p = 0; p < 65536; ++p) {
    const auto pattern = static_cast<std::uint16_t>(p);
    const float value = format.from(pattern);
    if ((pattern & 0x7fffU) > format.infinity) {
      REQUIRE(std::isnan(value));
      REQUIRE(std::isnan(format.from(format.to(value))));
    } else {
      REQUIRE(format.to(value) == pattern);
    }
  }
}

void check_nearest(const Format& format, float value) {
  const std::uint16_t given = format.to(value);
  CAPTURE(value);
  REQUIRE(((given >> 15) != 0) == std::signbit(value));
  REQUIRE(given == nearest_by_search(format, value, given));
}

// Between every two neighbours: the middle, and the floats just below and above it.
void check_between_neighbours(const Format& format) {
  for (std::uint32_t p = 0; p + 1 < format.infinity; ++p) {
    const auto low = static_cast<double>(format.from(static_cast<std::uint16_t>(p)));
    const auto high = static_cast<double>(format.from(static_cast<std::uint16_t>(p + 1)));
    const auto middle = static_cast<float>((low + high) / 2);
    for (float value : {middle, std::nextafterf(middle, 0.0F), std::nextafterf(middle, INFINITY)}) {
      check_nearest(format, value);
      check_nearest(format, -value);
    }
    const std::uint16_t even = static_cast<std::uint16_t>(p % 2 == 0 ? p : p + 1);
    if (static_cast<double>(middle) == (low + high) / 2) REQUIRE(format.to(middle) == even);
  }
}

}  // namespace

TEST_CASE("every bf16 pattern survives the way to fp32 and back; NaN stays NaN") {
  check_round_trip(bf16);
}

TEST_CASE("every fp16 pattern survives the way to fp32 and back; NaN stays NaN") {
  check_round_trip(fp16);
}

TEST_CASE("bf16 rounds to nearest, ties to even, around every midpoint") {
  check_between_neighbours(bf16);
}

TEST_CASE("fp16 rounds to nearest, ties to even, around every midpoint, subnormals included") {
  check_between_neighbours(fp16);
}

TEST_CASE("random fp32 bit patterns convert as a search over all neighbours says") {
  Random random(3, Purpose::user);
  for (int i = 0; i < 300'000; ++i) {
    const auto value = std::bit_cast<float>(random.next());
    if (!std::isfinite(value)) continue;
    if (std::fabs(value) < 3.39e38F) check_nearest(bf16, value);
    const float small = std::ldexp(value, static_cast<int>(random.below(3)) - 1);
    if (std::fabs(small) < 65520.0F) check_nearest(fp16, small);
  }
}

TEST_CASE("values beyond the range become infinite, with their sign") {
  CHECK(to_fp16(65519.996F) == 0x7bff);
  CHECK(to_fp16(65520.0F) == 0x7c00);
  CHECK(to_fp16(-1e30F) == 0xfc00);
  CHECK(to_fp16(INFINITY) == 0x7c00);
  CHECK(to_bf16(std::numeric_limits<float>::max()) == 0x7f80);
  CHECK(to_bf16(-INFINITY) == 0xff80);
}

TEST_CASE("tiny values keep their sign when they become zero") {
  CHECK(to_fp16(0x1p-25F) == 0);  // a tie between 0 and the least subnormal: even
  CHECK(to_fp16(std::nextafterf(0x1p-25F, 1.0F)) == 1);
  CHECK(to_fp16(-1e-30F) == 0x8000);
  CHECK(std::signbit(from_fp16(0x8000)));
  CHECK(std::signbit(from_bf16(0x8000)));
}

TEST_CASE("element types have their sizes, and names that read back") {
  for (Dtype type : {Dtype::fp32, Dtype::bf16, Dtype::fp16, Dtype::fp8, Dtype::fp64, Dtype::int32,
                     Dtype::int64, Dtype::uint8})
    CHECK(dtype_from(name(type)) == type);
  CHECK(bytes_of(3, Dtype::bf16) == Bytes(6));
  CHECK(bytes_of(3, Dtype::fp8) == Bytes(3));
  CHECK(bytes_of(3, Dtype::int64) == Bytes(24));
  CHECK(error_of([] { dtype_from("fp33"); }).category() == Category::config);
}
