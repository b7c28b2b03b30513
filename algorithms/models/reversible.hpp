// Blocks whose input can be computed from their output, so that nothing has to be kept between a
// forward and its backward but the output of the last of them.
//
// Activations are two streams (x1, x2) of equal size, one behind the other.
//
//   one function   y1 = x2 + f(x1),  y2 = x1;          x1 = y2,  x2 = y1 - f(x1)
//                  (Rivaud et al. 2024, PETRA, arXiv 2406.02052: the streams change places)
//   two functions  y1 = x1 + f(x2),  y2 = x2 + g(y1);  x2 = y2 - g(y1),  x1 = y1 - f(x2)
//                  (Gomez et al. 2017, RevNet, arXiv 1707.04585; Kitaev et al. 2020, Reformer,
//                  arXiv 2001.04451: f is attention, g the MLP)
//
// The reconstruction computes f and g as the forward does and saves what they save: the backward
// behind it costs one forward more than plain backpropagation, not two.
#pragma once

#include <memory>

#include "algorithms/models/block.hpp"

namespace orrery {

// `f` and `g` are blocks from a stream to a stream; without g the coupling has one function.
// Parameters: those of f, then those of g.
std::shared_ptr<Block> make_coupling(std::shared_ptr<Block> f, std::shared_ptr<Block> g = nullptr);

// x -> (x, x), before the first coupling; reversible. `elements`: of x.
std::shared_ptr<Block> make_doubling(std::int64_t elements, Dtype dtype);
// (x1, x2) -> (x1 + x2) / 2, behind the last.
std::shared_ptr<Block> make_averaging(std::int64_t elements, Dtype dtype);

}  // namespace orrery
