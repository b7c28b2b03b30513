// A model of nothing but parameters.
#pragma once

#include <memory>

#include "algorithms/models/block.hpp"

namespace orrery {

// A block whose passes take 1 and 2 us.
class Weights : public Block {
 public:
  explicit Weights(std::int64_t elements) { parameters_ = {{"weight", elements, 0, 1, true}}; }
  void prepare(Rank& rank) override {
    forward_ = rank.prepare(Kernel::timed("forward", Seconds(1e-6), {Role::read}));
    backward_ = rank.prepare(Kernel::timed("backward", Seconds(2e-6), {Role::read, Role::update}));
  }
  void forward(const BlockPass& p) const override { p.stream.launch(forward_, {p.parameters}); }
  void backward(const BlockPass& p) const override {
    p.stream.launch(backward_, {p.parameters, p.gradients});
  }

 private:
  Prepared forward_, backward_;
};

inline Model weights(int blocks, std::int64_t elements, Dtype dtype) {
  Model model;
  for (int i = 0; i < blocks; ++i) model.blocks.push_back(std::make_shared<Weights>(elements));
  model.dtype = dtype;
  return model;
}

}  // namespace orrery
