// A language model on bytes: embeds the last `context` bytes, passes them through hidden layers,
// predicts the next byte.
//
// After Bengio et al. 2003, "A Neural Probabilistic Language Model" (without its direct
// connections; gelu for tanh).
#pragma once

#include "algorithms/models/block.hpp"

namespace orrery {

struct MlpShape {
  int context = 8, embedding = 16, hidden = 64, layers = 2, vocabulary = 256;
  int micro_batch = 4;
  int micro_batches = 1;  // per replica and step: the loss is the mean over all of them
  Dtype dtype = Dtype::fp32;
  // Hidden layers but the first are functions of couplings (reversible.hpp), two each.
  bool reversible = false;
  // mu: hidden widths are those that grow; `embedding` and `vocabulary` stay.
  Parametrisation parametrisation = Parametrisation::standard;
  int base_width = 1;  // of mu

  bool mu() const { return parametrisation == Parametrisation::mu; }
  double width() const { return static_cast<double>(hidden) / base_width; }
};

// Blocks: embedding, `layers` hidden layers, head; reversible: embedding, hidden layer, doubling,
// `layers` - 1 couplings, averaging, head. `text` may be null in a run without values.
Model make_mlp(const MlpShape& shape, std::shared_ptr<const std::string> text);

}  // namespace orrery
