// What PyTorch's caching allocator holds of a device for a program's tensors.
//
// pytorch/pytorch, c10/cuda/CUDACachingAllocator.cpp, with expandable_segments:True. Each stream
// has a segment for tensors of at most 1 MiB and one for larger ones, which grow at their ends by
// pages of 2 and 20 MiB and never shrink. Sizes are multiples of 512 bytes. A tensor goes into the
// smallest gap that holds it, the end of the segment last; gaps side by side are one. So more is
// held than was ever in use at once: gaps that nothing fits into, and what other streams gave back.
// Not modelled: pages that are given back where the device is full.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <utility>

#include "backend/core/units.hpp"

namespace orrery::cli {

class CachingAllocator {
 public:
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
    std::int64_t end = 0;                                       // of the pages that are there
    std::map<std::int64_t, std::int64_t> used{};                // size by address
    std::map<std::int64_t, std::int64_t> gaps{};                // likewise
    std::set<std::pair<std::int64_t, std::int64_t>> by_size{};  // gaps: size, address
    void add_gap(std::int64_t begin, std::int64_t size);
    void drop_gap(std::int64_t begin);
    std::int64_t gap_at_end() const;  // its size
  };
  std::map<std::pair<std::uint32_t, bool>, Segment> segments_;
  Bytes held_;
};

}  // namespace orrery::cli
