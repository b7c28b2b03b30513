#include <doctest/doctest.h>

#include <cmath>
#include <set>

#include "backend/core/philox.hpp"

using namespace orrery;

TEST_CASE("Philox gives the known answers of Random123") {
  CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) ==
        PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  constexpr std::uint32_t ones = 0xffffffff;
  CHECK(philox4x32({ones, ones, ones, ones}, {ones, ones}) ==
        PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("seed, purpose, stream and index all change the number") {
  std::set<std::uint64_t> seen;
  for (std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 32})
    for (std::uint32_t purpose = 0; purpose < 7; ++purpose)
      for (std::uint32_t stream : {0U, 1U})
        for (std::uint64_t index : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 32})
          seen.insert(Philox(seed, purpose, stream).bits64(index));
  CHECK(seen.size() == 3 * 7 * 2 * 3);
  CHECK(Philox(3, Purpose::dropout).bits(5) == Philox(3, 2).bits(5));
}

TEST_CASE("uniform numbers fill [0, 1) evenly") {
  const Philox random(1, Purpose::user);
  double sum = 0, squares = 0;
  constexpr int n = 100'000;
  for (std::uint64_t i = 0; i < n; ++i) {
    const double u = random.uniform(i);
    REQUIRE(u >= 0);
    REQUIRE(u < 1);
    sum += u;
    squares += u * u;
  }
  CHECK(std::abs(sum / n - 0.5) < 0.004);  // four standard errors
  CHECK(std::abs(squares / n - 1.0 / 3) < 0.004);
}

TEST_CASE("normal numbers have the moments of the normal distribution") {
  const Philox random(2, Purpose::initial_values);
  double sum = 0, squares = 0, fourth = 0;
  constexpr int n = 100'000;
  for (std::uint64_t i = 0; i < n; ++i) {
    const double z = random.normal(i);
    REQUIRE(std::isfinite(z));
    sum += z;
    squares += z * z;
    fourth += z * z * z * z;
  }
  CHECK(std::abs(sum / n) < 0.013);
  CHECK(std::abs(squares / n - 1) < 0.018);
  CHECK(std::abs(fourth / n - 3) < 0.13);
}

TEST_CASE("whole numbers below n are even and stay below n") {
  const Philox random(3, Purpose::order);
  std::array<int, 6> counts{};
  for (std::uint64_t i = 0; i < 60'000; ++i) ++counts.at(random.below(i, 6));
  for (const int count : counts) CHECK(std::abs(count - 10'000) < 400);
  CHECK(random.below(0, 0) == 0);
  CHECK(random.below(0, 1) == 0);
}

TEST_CASE("a sequence is its stream by index and can be continued") {
  const Philox philox(4, Purpose::gossip, 9);
  Random random(4, Purpose::gossip, 9);
  CHECK(random.next() == philox.bits(0));
  CHECK(random.uniform() == philox.uniform(1));
  CHECK(random.below(100) == philox.below(2, 100));
  CHECK(random.normal() == philox.normal(3));
  Random later(4, Purpose::gossip, 9);
  later.seek(random.position());
  CHECK(later.next() == random.next());
}
