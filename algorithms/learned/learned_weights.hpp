// The weights of a learned optimizer, and the file that holds them.
//
//   note: what it is and where it comes from
//   workers: 8                # of lagg-a; of lopt-a absent
//   layers:                   # ReLU between them; the last has two outputs, d and s
//     - weights: [[0.1, …], …]   # one row for each input, the first layer's in the order of
//     features.hpp
//       biases: [0, …]
//     - …
//   step: 0.001               # theta <- theta - step d exp(exponent s)
//   exponent: 0.001
//   momentum_decays: [0.9, 0.99, 0.999]
//   second_moment_decay: 0.999
//   factored_decays: [0.9, 0.99, 0.999]
//
// Decays are the trained ones, not what they are parametrised by.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "algorithms/islands.hpp"
#include "backend/core/config.hpp"

namespace orrery {

struct LearnedLayer {
  std::vector<std::vector<double>> weights;  // [inputs][outputs]
  std::vector<double> biases;                // [outputs]
};
void describe(Fields<LearnedLayer>& f);

struct LearnedWeights {
  std::string note;
  std::int64_t workers = 1;  // whose Deltas are inputs one by one; 1: their mean is
  std::vector<LearnedLayer> layers;
  double step = 1e-3, exponent = 1e-3;
  std::vector<double> momentum_decays{0.9, 0.99, 0.999};
  double second_moment_decay = 0.999;
  std::vector<double> factored_decays{0.9, 0.99, 0.999};
};
void describe(Fields<LearnedWeights>& f);

// The keys that learned optimizers share.
struct LearnedOptions : IslandOptions {
  LearnedOptions() { inner_steps = 8; }
  std::string weights;                           // path
  std::shared_ptr<const LearnedWeights> loaded;  // from there
};

template <class Options>
void describe_learned(Fields<Options>& f, bool with_codec = true) {
  describe_islands(f, with_codec);
  f.field("weights", static_cast<std::string Options::*>(&LearnedOptions::weights))
      .required()
      .doc("file of a learned optimizer, from the current folder or this file's");
}

// Finds the file from the current folder, then from that of the file in which `said` names it, and
// reads it; what is wrong goes to `problems`. Throws ConfigError for a file that is no YAML.
void load_weights(LearnedOptions& options, const Node& said, Problems& problems);

}  // namespace orrery
