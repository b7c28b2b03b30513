// Seconds as engine time.
#include "backend/core/units.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "tests/support/errors.hpp"

namespace orrery {
namespace {

TEST_CASE("seconds become the nearest picosecond, half of one upwards") {
  CHECK(to_time(Seconds(1)).picoseconds == 1'000'000'000'000U);
  CHECK(to_time(Seconds(0.4e-12)) == Time{});
  CHECK(to_time(Seconds(0.5e-12)) == Time(1));
  CHECK(to_time(Seconds(2.5e-12)) == Time(3));
  CHECK(to_time(Seconds(-1)) == Time{});
}

TEST_CASE("200 days are exact, and what is longer than time counts is refused, not taken as 0") {
  CHECK(to_time(Seconds(200.0 * 86400)).picoseconds == 17'280'000ULL * 1'000'000'000'000U);
  const Error long_one = error_of([] { to_time(Seconds(300.0 * 86400)); });
  CHECK(long_one.category() == Category::config);
  CHECK(long_one.message().find("300 days") != std::string::npos);
  const Error endless = error_of([] { to_time(Seconds(std::numeric_limits<double>::infinity())); });
  CHECK(endless.message().find("without end") != std::string::npos);
}

}  // namespace
}  // namespace orrery
