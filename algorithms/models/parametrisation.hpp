// How initial values and learning rates depend on the width of a model.
//
// The maximal update parametrisation (Yang et al. 2022, "Tensor Programs V: Tuning Large Neural
// Networks via Zero-Shot Hyperparameter Transfer", arXiv 2203.03466), table 8. Under it activations
// and what an update changes of them do not depend on the width, so that a learning rate found at
// one width is good at all. Fan-in and fan-out in units of the base width, at which it is the
// standard parametrisation:
//
//                                input weights, biases   hidden weights   output weights
//   variance of initial values   1 / fan-in              1 / fan-in       1 (over the base width)
//   multiplier in the model      1                       1                1 / fan-in
//   learning rate of SGD         fan-out                 1                fan-in
//   learning rate of Adam        1                       1 / fan-in       1
//
// Decoupled weight decay shrinks a weight by the rate without these factors, as the authors'
// package does (microsoft/mup, mup/optim.py).
#pragma once

#include <cstdint>

namespace orrery {

enum class Parametrisation : std::uint8_t { standard, mu };

// By what the learning rate of a parameter is multiplied: of an optimizer whose steps have the same
// size whatever the gradient's (Adam, signs, learned optimizers), and of one whose steps are
// proportional to it (SGD).
struct RateFactors {
  double adaptive = 1, proportional = 1;
  bool operator==(const RateFactors&) const = default;
};

// Widths over the base width.
inline RateFactors input_rates(double fan_out) { return {1, fan_out}; }
inline RateFactors hidden_rates(double fan_in) { return {1 / fan_in, 1}; }
inline RateFactors output_rates(double fan_in) { return {1, fan_in}; }

}  // namespace orrery
