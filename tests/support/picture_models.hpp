// Small networks for pictures, and pictures of noise for them.
#pragma once

#include <memory>
#include <string>

#include "algorithms/models/resnet.hpp"
#include "algorithms/models/revnet.hpp"
#include "backend/core/philox.hpp"

namespace orrery {

// Records as Kernel::picture_batch reads them.
inline std::shared_ptr<const std::string> noise_pictures(int records, int size, int classes) {
  const Philox numbers(3, Purpose::user);
  std::string all;
  std::uint64_t at = 0;
  for (int record = 0; record < records; ++record) {
    all.push_back(static_cast<char>(record % classes));
    for (int i = 0; i < 3 * size * size; ++i)
      all.push_back(static_cast<char>(numbers.below(at++, 256)));
  }
  return std::make_shared<const std::string>(all);
}

inline ResnetShape small_pictures(int depth, int image, int width, int micro_batch,
                                  int micro_batches = 1) {
  ResnetShape shape;
  shape.depth = depth;
  shape.image = image;
  shape.classes = 5;
  shape.small_images = true;
  shape.width = width;
  shape.micro_batch = micro_batch;
  shape.micro_batches = micro_batches;
  shape.dtype = Dtype::fp32;
  return shape;
}

}  // namespace orrery
