// Small rank programs with values, for tests in any world.
#pragma once

#include <functional>
#include <initializer_list>
#include <string_view>
#include <utility>
#include <vector>

#include "backend/checkpoint.hpp"
#include "backend/rank.hpp"
#include "backend/world.hpp"

namespace orrery {

// What one rank's program wants to tell the test.
struct RankNotes {
  std::vector<double> values;
  std::vector<Checkpoint> checkpoints;
};

using SharedProgram = std::function<void(Rank&, RankNotes&)>;

// Kernels with values for toy programs; their bodies hold nothing of the program.
namespace toy {

inline float* floats(const View& view) { return static_cast<float*>(view.data); }

inline Tensor vector(Rank& rank, Stream& home, std::int64_t elements, std::string_view name,
                     Label label = Label::parameters) {
  TensorOptions options;
  options.name = name;
  return rank.allocate(home, label, elements, Dtype::fp32, options);
}

// A kernel with a body that takes `duration` in sim.
inline Prepared kernel(Rank& rank, const char* label, Seconds duration,
                       std::initializer_list<Role> roles, KernelBody body) {
  return rank.prepare(Kernel::custom(label, roles, std::move(body), Flops(0), Bytes(0), duration));
}

inline void fill(Rank& rank, Stream& stream, const Tensor& tensor, double value,
                 Site site = Site::here()) {
  stream.launch(rank.prepare(Kernel::fill(tensor.elements(), value, Dtype::fp32)), {tensor}, site);
}

}  // namespace toy

}  // namespace orrery
