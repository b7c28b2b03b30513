// Residual networks for images.
//
// He et al. 2016, "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), table 1, with
// the stride of a bottleneck in its 3 x 3 convolution (as torchvision's, whose parameter counts
// these are).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "algorithms/models/block.hpp"

namespace orrery {

struct ResnetShape {
  int depth = 50;   // 18, 34: basic blocks; 50, 101, 152: bottlenecks
  int image = 224;  // height and width, 3 channels
  int classes = 1000;
  bool small_images = false;           // CIFAR's stem: 3 x 3 with stride 1, no pooling
  int width = 64;                      // channels of the first stage
  std::vector<std::int64_t> blocks{};  // of each stage, in place of the depth's
  bool reversible = false;             // see make_picture_network
  int micro_batch = 1, micro_batches = 1;
  Dtype dtype = Dtype::bf16;
};

// Blocks: stem, residual blocks, head (average, classes, loss). Forward FLOPs are known before
// prepare. `pictures`: records as Kernel::picture_batch reads them; null in a run without values.
// Error{config} for an unknown depth.
Model make_resnet(const ResnetShape& shape, std::shared_ptr<const std::string> pictures = nullptr);

// What reversible networks have in common with residual ones.
struct PictureStages {
  std::vector<std::int64_t> blocks;
  bool bottleneck;
};
PictureStages picture_stages(const ResnetShape& shape);  // Error{config} for an unknown depth
// Names what the kernels of a shape depend on.
std::string picture_key(const char* what, const ResnetShape& shape);
// The convolutions of a residual function, the first stride being that of its 3 x 3.
std::vector<ConvolutionShape> residual_path(std::int64_t samples, std::int64_t size,
                                            std::int64_t in, std::int64_t width,
                                            std::int64_t stride, bool bottleneck);
// Without blocks.
Model picture_model(std::string name, const ResnetShape& shape,
                    std::shared_ptr<const std::string> pictures);

}  // namespace orrery
