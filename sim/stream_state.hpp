// What the simulated world keeps of a stream: a queue of compact entries and where its head stands.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <list>
#include <memory>
#include <vector>

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
  meeting,        // pointer: RecordedCommunication; extra: ChannelPlace
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
  // The same, issued `by` later.
  Entry later(Time by) const {
    Entry entry = *this;
    entry.issued_ += by;
    return entry;
  }

 private:
  std::uint64_t word_ = 0;
  Time issued_;
};
static_assert(sizeof(Entry) == 16);

// All that a class of ranks issues to a stream, at the times of a host that never has to wait.
using StreamScript = std::vector<Entry>;

// The operations that a stream has before it: in a ring of its own, which grows by doubling, or a
// part of a script. The host of a rank that follows a script is late against it by what it has
// waited. When that becomes more, all that is in the queue has been issued, and when no longer
// matters; so one lateness is kept, and from where on another holds.
class EntryQueue {
 public:
  EntryQueue() = default;
  ~EntryQueue() {
    if (!follows_script()) delete[] entries_;
  }
  EntryQueue(const EntryQueue&) = delete;
  EntryQueue& operator=(const EntryQueue&) = delete;

  bool empty() const { return head_ == tail_; }
  std::uint32_t size() const { return tail_ - head_; }
  Entry front() const { return at(0); }
  // Of those for which is_known().
  Entry at(std::uint32_t place) const { return entries_[(head_ + place) & mask_].later(late_); }
  bool is_known(std::uint32_t place) const { return head_ + place < late_until_; }
  // Whether the new front, if there is one, needs set_late() first.
  bool pop() { return ++head_ == late_until_; }
  // The entry behind the front will be wanted soon.
  void prefetch_next() const { __builtin_prefetch(&entries_[(head_ + 1) & mask_]); }

  void push(const Entry& entry) {
    if (entries_ == nullptr || size() > mask_) grow();
    entries_[tail_++ & mask_] = entry;
  }

  void follow(const StreamScript& script) {
    entries_ = const_cast<Entry*>(script.data());  // never written to
    mask_ = whole_script;
  }
  // The next entry of the script is issued by a host that is so late.
  void push_next(Time late) {
    if (empty() && head_ == late_until_) set_late(late);
    ++tail_;
  }
  // From the next entry on the host is later; all entries before it have been issued by now.
  void host_waited() { late_until_ = tail_; }
  // How late the host was with the front and all behind it.
  void set_late(Time late) {
    late_ = late;
    late_until_ = for_ever;
  }

 private:
  static constexpr std::uint32_t for_ever = ~std::uint32_t{0};
  static constexpr std::uint32_t whole_script = ~std::uint32_t{0};
  bool follows_script() const { return mask_ == whole_script; }
  void grow();

  Entry* entries_ = nullptr;
  std::uint32_t mask_ = 0;  // of a ring, its capacity - 1
  std::uint32_t head_ = 0, tail_ = 0;
  std::uint32_t late_until_ = for_ever;
  Time late_;
};

enum class StreamPhase : std::uint8_t {
  empty,          // nothing in the queue
  running,        // its head ends by itself, as do all operations up to `run_end`
  fence_passes,   // its head, a fence that has nothing to wait for, ends by such an entry
  fence,          // its head waits for another stream
  communicating,  // its head waits for other ranks or is being transferred
  mark            // its head is a mark in the host's future
};

// Two cache lines, the first of which is what every operation touches: with thousands of ranks each
// line is a miss. Ordinals of a stream have 32 bits.
struct alignas(64) StreamState {
  EntryQueue queue;
  std::uint32_t passed = 0;                          // ordinal of the last operation that has ended
  std::uint32_t host_threshold = ~std::uint32_t{0};  // flows of the rank look again from here on
  StreamState* first_waiter = nullptr;  // streams whose head, a fence, waits for this; by ordinal
  SimRank* device = nullptr;
  std::uint32_t first_wanted = ~std::uint32_t{0};  // the ordinal that the first of them waits for
  std::uint16_t index = 0;
  StreamPhase phase = StreamPhase::empty;
  WaitClass wait_class : 2 = WaitClass::idle;  // of waiting for this stream
  bool is_compute : 1 = false;
  bool poisoned : 1 = false;     // the head and all behind it fail
  bool head_values : 1 = false;  // the head has values
  bool all_together : 1 = false;

  Time began;                                       // of the head: start, or arrival
  std::uint32_t issued = 0;                         // ordinal of the last operation issued
  std::uint32_t run_end = 0;                        // of the last operation of the run under way
  std::uint32_t poisoned_from = ~std::uint32_t{0};  // first ordinal that failed
  std::uint32_t waits_until = 0;                    // ordinal that its head, a fence, waits for
  StreamState* waits_for = nullptr;                 // the stream that has to pass it
  StreamState* next_waiter = nullptr;               // in that stream's list
  std::uint32_t next_wanted = ~std::uint32_t{0};    // the ordinal that that one waits for
  std::uint32_t rank = 0;
  std::unique_ptr<std::list<ValueOperation>> values;  // those that have values, in issue order
  // Of the engine's entry that ends the head, or its run; time_never: there is none. An entry that
  // comes at another time is one of before its device's Presence changed.
  Time due = time_never;

  // Streams of a rank lie side by side: this many together, or all that a script has.
  static constexpr std::uint32_t neighbours = 2;
  // Another stream of this one's rank, without a look at its device if they are neighbours.
  StreamState& sibling(std::uint32_t other);

  void prefetch() const {
    __builtin_prefetch(this);
    __builtin_prefetch(reinterpret_cast<const char*>(this) + 64);
  }
  // What its end leads to, when prefetch() was a while ago.
  void prefetch_around() const {
    __builtin_prefetch(device);
    __builtin_prefetch(reinterpret_cast<const char*>(device) + 64);
    if (first_waiter != nullptr) first_waiter->prefetch();
  }
  std::uint64_t head() const { return std::uint64_t{passed} + 1; }  // ordinal of the head
  StreamState();
  ~StreamState();
};

static_assert(offsetof(StreamState, began) == 64 && sizeof(StreamState) == 128);

}  // namespace orrery::sim
