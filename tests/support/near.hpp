// Bands that are relative, however small the values are. doctest::Approx alone takes `epsilon` of
// 1 + |x|: of 1e-3, 15 % is then anything below 0.15.
#pragma once

#include <doctest/doctest.h>

namespace orrery {

// Equals what differs by less than `relative` of the larger of both.
inline doctest::Approx near(double x, double relative) {
  return doctest::Approx(x).epsilon(relative).scale(0);
}

}  // namespace orrery
