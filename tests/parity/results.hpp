// What is asked of the results of trainings.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/support/algorithm_run.hpp"

namespace orrery {

// The result of a training that must have ended well.
inline WorldResult ran(WorldResult result) {
  REQUIRE_MESSAGE(!result.error, why(result));
  return result;
}

inline std::vector<float> weights_after(const AlgorithmCase& c, std::size_t rank = 0) {
  return state_of(ran(run_in_sim(setup_of(c), training_of(c))), rank, "replica.parameters");
}
inline std::vector<float> weights_on_cpu_after(const AlgorithmCase& c, std::size_t rank = 0) {
  return state_of(ran(run_in_cpu(setup_of(c), training_of(c))), rank, "replica.parameters");
}

template <class T>
double largest_difference(const std::vector<T>& a, const std::vector<T>& b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    largest = std::max(largest, std::fabs(double{a[i]} - double{b[i]}));
  return largest;
}

// As parts of b.
inline double largest_relative_difference(const std::vector<double>& a,
                                          const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    largest = std::max(largest, std::fabs(a[i] - b[i]) / std::fabs(b[i]));
  return largest;
}

inline double largest(const std::vector<double>& values) {
  double most = 0;
  for (const double v : values) most = std::max(most, std::fabs(v));
  return most;
}

}  // namespace orrery
