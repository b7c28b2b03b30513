// An operation as it waits in a stream's queue, and the queue: one producer (the rank's flows, one
// at a time), one consumer (the stream's worker), without locks and without a limit, because a host
// that waited for room could deadlock where no other world does.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/channel.hpp"
#include "backend/event.hpp"
#include "backend/kernel.hpp"
#include "backend/prepared.hpp"

namespace orrery::cpu {

struct Meeting;

struct Operation {
  enum class Kind : std::uint8_t { kernel, sequence, copy, upload, fence, communicate, mark };
  Kind kind = Kind::kernel;
  std::uint8_t operands = 0;
  Collective collective = Collective::all_reduce;  // communicate: this member's side
  std::uint16_t racy = 0;                          // a bit per operand
  std::uint32_t roles = 0;                         // of the operands, packed
  std::uint32_t part = 0;                          // communicate: my place in the meeting
  union {
    const PreparedKernel* kernel = nullptr;
    const Sequence* sequence;
    Meeting* meeting;
    std::vector<double>* values;  // upload: owned until it has run
    std::int64_t step;            // mark
  };
  const Channel* channel = nullptr;  // communicate
  Event event;                       // fence
  std::uint64_t ordinal = 0;         // marks repeat that of the operation before
  std::array<View, max_operands> views;

  std::span<const View> given() const { return {views.data(), operands}; }
};

class OperationQueue {
 public:
  OperationQueue() : head_(new Chunk), tail_(head_) {}
  ~OperationQueue();
  OperationQueue(const OperationQueue&) = delete;
  OperationQueue& operator=(const OperationQueue&) = delete;

  // Producer: fill the returned operation (its fields hold what was there before), then commit it.
  Operation& back();
  void commit() { committed_.store(issued_, std::memory_order_seq_cst); }

  // Consumer: the oldest operation, or null; then pop it.
  Operation* front();
  void pop() { ++taken_; }
  bool empty() const { return committed_.load(std::memory_order_seq_cst) == taken_; }

 private:
  static constexpr std::size_t chunk_size = 32;
  struct Chunk {
    std::array<Operation, chunk_size> operations;
    Chunk* next = nullptr;  // written before the operations behind it are committed
  };
  Chunk* head_;  // consumer's
  std::uint64_t taken_ = 0, head_first_ = 0;
  alignas(64) Chunk* tail_;  // producer's
  std::uint64_t issued_ = 0;
  alignas(64) std::atomic<std::uint64_t> committed_{0};
  std::atomic<Chunk*> spare_{nullptr};  // a used chunk on its way back to the producer
};

}  // namespace orrery::cpu
