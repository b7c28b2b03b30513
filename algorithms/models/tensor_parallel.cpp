#include "algorithms/models/tensor_parallel.hpp"

namespace orrery {

void TensorParallel::open(Rank& rank, bool partial) {
  if (rank.size(Axis::tensor) != size_)
    throw Error(Category::config, "a model divided over " + std::to_string(size_) +
                                      " ranks runs on a tensor axis of " +
                                      std::to_string(rank.size(Axis::tensor)));
  if (alone()) return;
  Stream& stream = rank.stream("tensor");
  line_ = {&rank.channel(Axis::tensor, "activations"), &stream};
  if (partial) gradients_ = {&rank.channel(Axis::tensor, "gradients"), &stream};
  if (rank.computes_values()) index_ = rank.coordinate(Axis::tensor);
}

}  // namespace orrery
