// Reversible residual networks for images.
//
// Gomez et al. 2017, "The Reversible Residual Network" (arXiv 1707.04585), as Rivaud et al. 2024,
// PETRA (arXiv 2406.02052; stephane-rivaud/PETRA, async_torch/models/models_RevNet.py) build them:
// a ResNet's stages in two streams of as many channels as its one has; each residual function sees
// one stream and ends with a ReLU; no ReLU behind the sum. Where the shape changes, a block is not
// reversible: y1 = f(x1) + s(x2) with s a 1 x 1 convolution, and y2 is what f has after its first
// convolution, or, with bottlenecks, another 1 x 1 convolution of x1. The stem pools 2 x 2.
#pragma once

#include <memory>
#include <string>

#include "algorithms/models/resnet.hpp"

namespace orrery {

// Blocks: stem, residual blocks, head. Error{config} for an unknown depth.
Model make_revnet(const ResnetShape& shape, std::shared_ptr<const std::string> pictures = nullptr);

// A RevNet where the shape is reversible, else a ResNet.
Model make_picture_network(const ResnetShape& shape,
                           std::shared_ptr<const std::string> pictures = nullptr);

}  // namespace orrery
