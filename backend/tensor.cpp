#include "backend/tensor.hpp"

#include "backend/rank.hpp"

namespace orrery {

Tensor::Tensor(Storage* storage) : operand_{storage, 0, storage->elements, false} {
  ++storage->references;
}

Tensor::Tensor(const Tensor& o) noexcept : operand_(o.operand_) {
  if (operand_.storage != nullptr) ++operand_.storage->references;
}

void Tensor::release() noexcept {
  if (operand_.storage != nullptr && --operand_.storage->references == 0)
    operand_.storage->rank->last_reference_died(*operand_.storage);
}

Tensor Tensor::slice(std::int64_t begin, std::int64_t end) const {
  if (begin < 0 || end < begin || end > elements())
    throw Error(Category::invalid_program, "slice [" + std::to_string(begin) + ", " +
                                               std::to_string(end) + ") of a tensor of " +
                                               std::to_string(elements()) + " elements")
        .with("tensor", operand_.storage->name);
  Tensor part = *this;
  part.operand_.end = part.operand_.begin + end;
  part.operand_.begin += begin;
  return part;
}

Tensor Tensor::racy() const {
  Tensor copy = *this;
  copy.operand_.racy = true;
  return copy;
}

}  // namespace orrery
