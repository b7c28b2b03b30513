// Workers whose training can be done by hand: each is drawn to a place of its own.
#pragma once

#include <string>
#include <vector>

#include "tests/support/quadratic.hpp"

namespace orrery {

// Worker i is drawn towards i, a quarter of the way in each step of a millisecond or as told.
inline AlgorithmCase drawn(const std::string& name, const std::string& options, int replicas,
                           std::int64_t steps, const std::vector<double>& seconds = {1e-3}) {
  Quadratic q;
  q.elements = 6;
  q.target = [](int rank, std::size_t) { return static_cast<float>(rank); };
  q.seconds = seconds;
  AlgorithmCase c;
  c.algorithm = "{name: " + name + ", " + options + "inner: {optimizer: {name: sgd, lr: 0.25}}}";
  c.replicas = replicas;
  c.steps = steps;
  c.micro_batches = 1;
  c.model = quadratic(q);
  return c;
}

inline float x_of(const WorldResult& result, std::size_t worker) {
  return state_of(result, worker, "replica.parameters")[0];
}

// Losses that it has noted, one a step.
inline std::size_t steps_of(const WorldResult& result, std::size_t worker) {
  return result.steps[worker].size();
}

inline double two_steps(double x, double target) {
  for (int h = 0; h < 2; ++h) x -= 0.25 * (x - target);
  return x;
}

}  // namespace orrery
