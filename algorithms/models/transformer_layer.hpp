// One layer of a decoder-only transformer as two sequences of kernels.
#pragma once

#include <memory>
#include <string>

#include "algorithms/models/transformer.hpp"

namespace orrery {

// `key` names the sequences; it must differ between shapes.
std::shared_ptr<Block> make_transformer_layer(const TransformerShape& shape,
                                              const std::string& key);

}  // namespace orrery
