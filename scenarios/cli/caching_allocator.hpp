// What PyTorch's caching allocator holds of a device for a program's tensors.
//
// pytorch/pytorch, c10/cuda/CUDACachingAllocator.cpp. Sizes are multiples of 512 bytes. Each stream
// has segments for tensors of at most 1 MiB and others for larger ones. A tensor goes into the
// smallest gap that holds it; gaps side by side in a segment are one; nothing is given back. So
// more is held than was ever in use at once: gaps that nothing fits into, and what other streams
// gave back.
//   expandable   (expandable_segments:True) one segment of a kind, which grows at its end by pages
//                of 2 and 20 MiB; the gap at the end is taken last
//   fixed        (the default) where no gap is large enough, a new segment: of 2 MiB for small
//                tensors, 20 MiB for those below 10 MiB, else of the tensor's size in steps of 2
//                MiB; of a gap for large tensors at most 1 MiB is not left over but given along
// Not modelled: what is given back where the device is full.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <utility>

#include "backend/core/units.hpp"

namespace orrery::cli {

enum class Segments { expandable, fixed };

class CachingAllocator {
 public:
  explicit CachingAllocator(Segments segments = Segments::expandable) : kind_(segments) {}
  // The addresses of a tensor; `stream` is its home.
  struct Block {
    std::uint32_t stream = 0;
    bool small = false;
    std::int64_t begin = 0;
  };
  Block allocate(std::uint32_t stream, Bytes size);
  void free(const Block& block);
  Bytes held() const { return held_; }  // torch.cuda.max_memory_reserved()

 private:
  struct Segment {
    std::int64_t end = 0;             // of the pages that are there
    std::set<std::int64_t> begins{};  // of fixed segments, which lie one behind the other
    std::map<std::int64_t, std::int64_t> used{};                // size by address
    std::map<std::int64_t, std::int64_t> gaps{};                // likewise
    std::set<std::pair<std::int64_t, std::int64_t>> by_size{};  // gaps: size, address
    void add_gap(std::int64_t begin, std::int64_t size);
    void drop_gap(std::int64_t begin);
    std::int64_t gap_at_end() const;  // its size
  };
  void grow(Segment& s, std::int64_t size, bool small);
  Segments kind_;
  std::map<std::pair<std::uint32_t, bool>, Segment> segments_;
  Bytes held_;
};

}  // namespace orrery::cli
