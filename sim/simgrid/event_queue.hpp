// The queue of device completions: entries leave in (time, rank, stream, ordinal) order.
//
// A ladder queue (Tang, Goh and Thng, "Ladder queue: an O(1) priority queue structure for
// large-scale discrete event simulation", ACM TOMACS 15(3), 2005). What is due far ahead is not
// sorted at all; nearer, it lies in buckets of equal width in time, whose order is known but not
// that within them; a bucket with too many entries is divided into buckets of its own. Only what is
// due next is sorted. So an entry is moved two or three times, however many there are, where each
// level of a heap is a miss in the cache.
//
// As the next entries are known in order, the client is told in time to fetch what each leads to,
// step by step.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "sim/simgrid/engine.hpp"

namespace orrery::sim {

struct QueueEntry {
  std::uint64_t time = 0;  // picoseconds
  std::uint64_t key = 0;   // Key::packed
  std::uint64_t payload = 0;

  bool operator<(const QueueEntry& o) const {
    return (static_cast<Wide>(time) << 64 | key) < (static_cast<Wide>(o.time) << 64 | o.key);
  }

 private:
  __extension__ using Wide = unsigned __int128;  // compared without a branch
};

class EventQueue {
 public:
  explicit EventQueue(EngineClient& client) : client_(client) {}

  bool empty() const { return size_ == 0; }
  std::size_t size() const { return size_; }
  void clear();

  void push(const QueueEntry& entry) {
    ++size_;
    if (entry.time >= far_from_)
      push_far(entry);
    else if (entry.time >= near_end_)
      push_in_rung(entry);
    else
      push_late(entry);
  }

  // The first entry. The queue must not be empty.
  const QueueEntry& top() {
    if (in_order() < ahead && size_ > in_order() + late_.size()) extend();
    return late_is_first() ? late_.front() : near_[next_];
  }

  // Removes what top() returned just now; nothing may come between the two calls.
  QueueEntry take() {
    --size_;
    if (late_is_first()) return take_late();
    for (int level = EngineClient::farthest; level >= 0; --level) {
      const std::size_t place = next_ + static_cast<std::size_t>(level + 1) * ahead_of_level;
      if (place < near_.size()) client_.approaches(level, near_[place].payload);
    }
    return near_[next_++];
  }

 private:
  static constexpr std::size_t ahead_of_level = EngineClient::between_levels;
  static constexpr std::size_t ahead = (EngineClient::farthest + 1) * ahead_of_level + 1;

  // The entries of a bucket are in a list of chunks: buckets grow and shrink all the time.
  struct Chunk {
    static constexpr std::uint32_t size = 8;
    std::array<QueueEntry, size> entries;
    std::uint32_t next = 0;
  };
  struct Bucket {
    std::uint32_t chunk = 0;  // the last; all others are full
    std::uint32_t count = 0;
  };
  // Buckets side by side in time, each 2^shift picoseconds wide.
  struct Rung {
    std::uint64_t start = 0;
    int shift = 0;
    std::size_t next = 0;   // the first bucket that has not been taken
    std::uint64_t end = 0;  // of the last
    std::vector<Bucket> buckets;

    // Where bucket `number` begins. The end of time is no further than a number can tell.
    std::uint64_t start_of(std::size_t number) const {
      return number <= (~std::uint64_t{0} - start) >> shift
                 ? start + (std::uint64_t{number} << shift)
                 : ~std::uint64_t{0};
    }
  };

  std::size_t in_order() const { return near_.size() - next_; }
  bool late_is_first() const {
    return !late_.empty() && (next_ == near_.size() || late_.front() < near_[next_]);
  }
  void push_far(const QueueEntry& entry);
  void push_in_rung(const QueueEntry& entry);
  void push_late(const QueueEntry& entry);
  QueueEntry take_late();

  void extend();
  void divide_far();
  void divide(const Rung& rung, const Bucket& bucket);
  Rung& add_rung(std::uint64_t start, int shift, std::size_t buckets);
  void append(const Bucket& bucket);
  bool at_one_time(const Bucket& bucket) const;
  void add(Rung& rung, const QueueEntry& entry);
  // Calls each(chunk, entries in it), the last chunk first.
  template <class Each>
  void for_each_chunk(const Bucket& bucket, const Each& each) const;
  void release(const Bucket& bucket);

  EngineClient& client_;
  std::size_t size_ = 0;

  // What is due before near_end_: in order from next_ on, and a heap of what came when the others
  // were in order.
  std::vector<QueueEntry> near_, late_;
  std::size_t next_ = 0;
  std::uint64_t near_end_ = 0;

  // What is due before far_from_: each rung divides the bucket of the one before it that would be
  // next.
  std::vector<Rung> rungs_;  // kept, with their memory
  std::size_t depth_ = 0;    // those in use
  std::vector<Chunk> chunks_;
  std::uint32_t free_chunk_ = 0;  // 0: none

  std::vector<QueueEntry> far_;
  std::uint64_t far_from_ = 0, far_first_ = ~std::uint64_t{0}, far_last_ = 0;
};

}  // namespace orrery::sim
