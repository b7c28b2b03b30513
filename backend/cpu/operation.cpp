#include "backend/cpu/operation.hpp"

#include <utility>

namespace orrery::cpu {

OperationQueue::~OperationQueue() {
  while (Operation* operation = front()) {
    if (operation->kind == Operation::Kind::upload) delete operation->values;
    pop();
  }
  while (head_ != nullptr) delete std::exchange(head_, head_->next);
  delete spare_.load();
}

Operation& OperationQueue::back() {
  const std::size_t place = issued_ % chunk_size;
  if (place == 0 && issued_ > 0) {
    Chunk* fresh = spare_.exchange(nullptr, std::memory_order_acquire);
    if (fresh == nullptr) fresh = new Chunk;
    fresh->next = nullptr;
    tail_->next = fresh;
    tail_ = fresh;
  }
  ++issued_;
  return tail_->operations[place];
}

Operation* OperationQueue::front() {
  if (empty()) return nullptr;
  if (taken_ - head_first_ == chunk_size) {
    Chunk* used = std::exchange(head_, head_->next);
    head_first_ += chunk_size;
    delete spare_.exchange(used, std::memory_order_acq_rel);
  }
  return &head_->operations[taken_ - head_first_];
}

}  // namespace orrery::cpu
