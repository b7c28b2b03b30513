// Fourier neural operators, as a timing model: every kernel with its shape, bytes and FLOPs.
//
// Li et al. 2021, "Fourier Neural Operator for Parametric Partial Differential Equations" (arXiv
// 2010.08895), section 4: a field of `width` channels on a grid passes through layers
//
//   y = gelu( irFFT( R trunc( rFFT(x) ) ) + W x + b )
//
// where trunc keeps the lowest `modes` frequencies of each dimension and R holds one complex
// width x width matrix per kept mode. A product per mode is priced as a real product of twice the
// size; the transforms cost 5 N log2 N a pair.
#pragma once

#include "algorithms/models/block.hpp"

namespace orrery {

struct FnoShape {
  std::vector<std::int64_t> grid{64, 64};   // points by dimension
  std::vector<std::int64_t> modes{12, 12};  // kept by dimension, each at most half of its points
  int width = 32, layers = 4;
  int in_channels = 1, out_channels = 1;
  int micro_batch = 1, micro_batches = 1;
  Dtype dtype = Dtype::fp32;

  std::int64_t points() const;
  // Complex modes that a layer keeps: all signs of every dimension but the last, whose transform is
  // real: 2^(D-1) times the product of `modes`.
  std::int64_t kept_modes() const;
};

// Blocks: lifting to `width` channels, `layers` layers, projection with a mean square loss. A
// sample's tokens are its input field, in words of four bytes; forward FLOPs, in which transforms
// do not count, are known before prepare. Error{config} where grid and modes do not match.
Model make_fno(const FnoShape& shape);

}  // namespace orrery
