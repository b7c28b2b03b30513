// First and last blocks of networks for pictures.
//
// Activations of networks in two streams are both streams, one behind the other, each of which has
// half of the channels.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "algorithms/models/block.hpp"

namespace orrery {

struct PicturePool {
  std::int64_t kernel = 0, stride = 1;  // kernel 0: none
};

// A convolution of the samples, batch norm, ReLU, the largest of windows; `streams`: 1 or 2.
std::shared_ptr<Block> make_picture_stem(const std::string& key, const ConvolutionShape& shape,
                                         const PicturePool& pool, int streams, Dtype dtype);

struct ClassifierShape {
  std::int64_t samples = 1, size = 1, channels = 1, classes = 10;  // channels of all streams
  int streams = 1, micro_batches = 1;
  Dtype dtype = Dtype::fp32;
};
// Means over the pixels, one linear layer, cross-entropy: the mean over the samples of a step's
// micro-batches.
std::shared_ptr<Block> make_classifier(const std::string& key, const ClassifierShape& shape);

}  // namespace orrery
