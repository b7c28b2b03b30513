// Which kernels a calibration measures, at which sizes.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "backend/kernel.hpp"

namespace orrery {

struct KernelPoint {
  Kernel kernel;
  bool held_back = false;
};

// Every class that models, losses and optimizers of this project use, in fp32, over a full grid of
// sizes as training steps on a CPU have them; then, for each class, points between the grid's,
// which are held back from its table. `quick` gives two sizes per axis and one held-back point per
// class, none of which takes long.
std::vector<KernelPoint> kernel_points(bool quick);

// The same at sizes as training steps on a GPU have them, but for what a GPU does not do: in bf16
// and, at fewer sizes, in fp32; of fp16 products alone. The products of two Llama models are held
// back, too. `fp8`: of products in fp8 with a scale per tensor as well, which not every GPU has;
// their operands are in bf16, and their rounding is part of them.
std::vector<KernelPoint> gpu_kernel_points(bool quick, bool fp8);

// Elements and type of each operand of a kernel of either; no elements: left empty.
std::vector<std::pair<std::int64_t, Dtype>> operands_of(const Kernel& kernel);

}  // namespace orrery
