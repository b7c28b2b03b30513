#include "algorithms/models/block.hpp"

namespace orrery {

std::int64_t Block::parameter_elements() const {
  std::int64_t total = 0;
  for (const ParameterSpec& p : parameters_) total += p.elements;
  return total;
}

std::int64_t Model::parameter_elements() const {
  std::int64_t total = 0;
  for (const auto& block : blocks) total += block->parameter_elements();
  return total;
}

Flops Model::flops_per_micro_batch() const {
  Flops total{0};
  for (const auto& block : blocks) total += block->forward_flops() + block->backward_flops();
  return total;
}

}  // namespace orrery
