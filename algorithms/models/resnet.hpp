// Residual networks for images, as a timing model: every kernel with its shape, bytes and FLOPs.
//
// He et al. 2016, "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), table 1, with
// the stride of a bottleneck in its 3 x 3 convolution (as torchvision's, whose parameter counts
// these are). Convolutions are implicit GEMMs of B H W x C_out x C_in k^2; batch norms and ReLUs
// are bound by memory.
#pragma once

#include "algorithms/models/block.hpp"

namespace orrery {

struct ResnetShape {
  int depth = 50;   // 18, 34: basic blocks; 50, 101, 152: bottlenecks
  int image = 224;  // height and width, 3 channels
  int classes = 1000;
  bool small_images = false;  // CIFAR's stem: 3 x 3 with stride 1, no pooling
  int micro_batch = 1, micro_batches = 1;
  Dtype dtype = Dtype::bf16;
};

// Blocks: stem, residual blocks, head (average, classes, loss). A sample's tokens are its image, in
// words of four bytes; forward FLOPs are known before prepare. Error{config} for an unknown depth.
Model make_resnet(const ResnetShape& shape);

}  // namespace orrery
