// The keys of an optimizer, as scenarios write them.
#pragma once

#include <optional>
#include <string>

#include "algorithms/optimizers/optimizer.hpp"
#include "backend/core/config.hpp"

namespace orrery {

// Keys that an optimizer does not have must be absent.
struct OptimizerSpec {
  std::string name = "adamw";  // sgd | momentum | adamw
  double lr = 1e-3;
  double weight_decay = 0;
  std::optional<double> momentum;               // momentum: 0.9
  std::optional<bool> nesterov;                 // momentum: false
  std::optional<double> beta1, beta2, epsilon;  // adamw: 0.9, 0.999, 1e-8
  std::int64_t warmup = 0;
  std::optional<std::int64_t> cosine;

  OptimizerOptions options() const;  // defaults filled in
};
void describe(Fields<OptimizerSpec>& f);

}  // namespace orrery
