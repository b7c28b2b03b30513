#include "algorithms/gossip/pace.hpp"

#include <doctest/doctest.h>

#include <cmath>

using namespace orrery;

TEST_CASE("Poisson numbers have their mean and its root as deviation, also where e^-mean is 0") {
  Random random(1, Purpose::user);
  for (const double mean : {0.3, 4.0, 500.0, 501.0, 2500.0}) {
    CAPTURE(mean);
    constexpr int draws = 4000;
    double sum = 0, squares = 0;
    for (int i = 0; i < draws; ++i) {
      const double off = static_cast<double>(poisson(random, mean)) - mean;
      sum += off;
      squares += off * off;
    }
    CHECK(std::fabs(sum / draws) < 4 * std::sqrt(mean / draws));
    // The variance of squares is mean + 2 mean^2.
    CHECK(std::fabs(squares / draws - mean) < 4 * std::sqrt((mean + 2 * mean * mean) / draws));
  }
}
