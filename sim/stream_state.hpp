// What the simulated world keeps of a stream: a queue of compact entries and where its head stands.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>

#include "backend/core/error.hpp"
#include "backend/core/units.hpp"
#include "backend/event.hpp"
#include "sim/time_account.hpp"

namespace orrery::sim {

class SimRank;
struct ValueOperation;

enum class EntryKind : std::uint8_t {
  kernel,         // pointer: PreparedKernel
  sequence,       // pointer: Sequence
  copy,           // pointer: PreparedKernel that prices it
  upload,         // takes no time
  fence,          // event
  communication,  // pointer: Transfer; extra: ChannelPlace
  meeting,        // pointer: RecordedCommunication, which becomes a communication at the head
  mark            // number: the step. Not an operation
};

// One operation in 16 bytes: when it was issued, and 4 bits of kind, 12 bits of extra and 48 bits
// of pointer or number. An operation with values has its operands in StreamState::values.
class Entry {
 public:
  Entry() = default;
  Entry(EntryKind kind, Time issued, const void* pointer, std::uint32_t extra = 0)
      : Entry(kind, issued, reinterpret_cast<std::uint64_t>(pointer), extra) {}
  Entry(EntryKind kind, Time issued, std::uint64_t number, std::uint32_t extra = 0)
      : word_(static_cast<std::uint64_t>(kind) << 60 | std::uint64_t{extra} << 48 | number),
        issued_(issued) {
    ORRERY_ASSERT(number >> 48 == 0 && extra < 4096, "an entry's fields fit");
  }
  // Ordinals of streams have 32 bits, streams of a rank 5.
  static Entry fence(Time issued, Event event) {
    return Entry(EntryKind::fence, issued, event.ordinal, event.stream);
  }

  EntryKind kind() const { return static_cast<EntryKind>(word_ >> 60); }
  std::uint32_t extra() const { return static_cast<std::uint32_t>(word_ >> 48) & 0xfffU; }
  std::uint64_t number() const { return word_ & 0xffff'ffff'ffffU; }
  template <class T>
  T* pointer() const {
    return reinterpret_cast<T*>(number());
  }
  Event event() const { return {extra(), number()}; }
  Time issued() const { return issued_; }

 private:
  std::uint64_t word_ = 0;
  Time issued_;
};
static_assert(sizeof(Entry) == 16);

// A ring that grows by doubling.
class EntryQueue {
 public:
  bool empty() const { return head_ == tail_; }
  std::uint32_t size() const { return tail_ - head_; }
  const Entry& front() const { return ring_[head_ & (capacity_ - 1)]; }
  const Entry& at(std::uint32_t place) const { return ring_[(head_ + place) & (capacity_ - 1)]; }
  void replace_front(const Entry& entry) { ring_[head_ & (capacity_ - 1)] = entry; }
  void push(const Entry& entry) {
    if (size() == capacity_) grow();
    ring_[tail_++ & (capacity_ - 1)] = entry;
  }
  void pop() { ++head_; }
  // The entry behind the front will be wanted soon.
  void prefetch_next() const { __builtin_prefetch(&ring_[(head_ + 1) & (capacity_ - 1)]); }

 private:
  void grow();
  std::unique_ptr<Entry[]> ring_;
  std::uint32_t capacity_ = 0, head_ = 0, tail_ = 0;
};

enum class StreamPhase : std::uint8_t {
  empty,          // nothing in the queue
  running,        // its head ends by itself, as do all operations up to `run_end`
  fence_passes,   // its head, a fence that has nothing to wait for, ends by such an entry
  fence,          // its head waits for another stream
  communicating,  // its head waits for other ranks or is being transferred
  mark            // its head is a mark in the host's future
};

// The first cache line is what every operation touches, the second what the compute stream's do as
// well: with thousands of ranks each line is a miss. Ordinals of a stream have 32 bits.
struct alignas(64) StreamState {
  EntryQueue queue;
  std::uint32_t passed = 0;                          // ordinal of the last operation that has ended
  std::uint32_t host_threshold = ~std::uint32_t{0};  // flows of the rank look again from here on
  Time began;                                        // of the head: start, or arrival
  StreamState* first_waiter = nullptr;               // streams whose head, a fence, waits for this
  SimRank* device = nullptr;
  std::uint32_t rank = 0;
  std::uint16_t index = 0;
  StreamPhase phase = StreamPhase::empty;
  WaitClass wait_class : 2 = WaitClass::idle;  // of waiting for this stream
  bool is_compute : 1 = false;
  bool poisoned : 1 = false;     // the head and all behind it fail
  bool head_values : 1 = false;  // the head has values

  TimeAccount account;                                 // of the compute stream
  std::uint32_t issued = 0;                            // ordinal of the last operation issued
  std::uint32_t run_end = 0;                           // of the last operation of the run under way
  std::uint32_t poisoned_from = ~std::uint32_t{0};     // first ordinal that failed
  StreamState* waits_for = nullptr;                    // what its head, a fence, waits for
  StreamState* next_waiter = nullptr;                  // in that stream's list
  std::unique_ptr<std::deque<ValueOperation>> values;  // those that have values, in issue order

  // Streams of a rank lie side by side, this many together.
  static constexpr std::uint32_t neighbours = 2;
  // Another stream of this one's rank, without a look at its device if they are neighbours.
  StreamState& sibling(std::uint32_t other);

  void prefetch() const {
    __builtin_prefetch(this);
    __builtin_prefetch(reinterpret_cast<const char*>(this) + 64);
  }
  std::uint64_t head() const { return std::uint64_t{passed} + 1; }  // ordinal of the head
  StreamState();
  ~StreamState();
};

static_assert(offsetof(StreamState, account) == 64);

}  // namespace orrery::sim
