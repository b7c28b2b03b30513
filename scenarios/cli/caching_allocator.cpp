#include "scenarios/cli/caching_allocator.hpp"

#include <algorithm>
#include <iterator>

namespace orrery::cli {

namespace {

constexpr std::int64_t mebibyte = 1 << 20;

std::int64_t round_up(std::int64_t size, std::int64_t unit) {
  return (size + unit - 1) / unit * unit;
}

}  // namespace

void CachingAllocator::Segment::add_gap(std::int64_t begin, std::int64_t size) {
  if (size == 0) return;
  gaps.emplace(begin, size);
  by_size.emplace(size, begin);
}

void CachingAllocator::Segment::drop_gap(std::int64_t begin) {
  const auto gap = gaps.find(begin);
  by_size.erase({gap->second, begin});
  gaps.erase(gap);
}

std::int64_t CachingAllocator::Segment::gap_at_end() const {
  if (gaps.empty()) return 0;
  const auto last = std::prev(gaps.end());
  return last->first + last->second == end ? last->second : 0;
}

// Such that a gap of this size is there.
void CachingAllocator::grow(Segment& s, std::int64_t size, bool small) {
  const bool fixed = kind_ == Segments::fixed;
  const std::int64_t at_end = fixed ? 0 : s.gap_at_end(), begin = s.end - at_end;
  const bool whole = fixed && size >= 10 * mebibyte;  // a segment of its own
  const std::int64_t pages = round_up(size - at_end, (small || whole ? 2 : 20) * mebibyte);
  if (at_end > 0) s.drop_gap(begin);
  if (fixed) s.begins.insert(begin);
  s.end += pages;
  held_ += Bytes(pages);
  s.add_gap(begin, s.end - begin);
}

CachingAllocator::Block CachingAllocator::allocate(std::uint32_t stream, Bytes bytes) {
  std::int64_t size = round_up(std::max<std::int64_t>(bytes.value, 1), 512);
  const bool small = size <= mebibyte;
  Segment& s = segments_[{stream, small}];
  auto fit = s.by_size.lower_bound({size, 0});
  if (kind_ == Segments::expandable && fit != s.by_size.end() &&
      fit->second + fit->first == s.end && std::next(fit) != s.by_size.end())
    ++fit;  // the gap at the end can grow, so it counts as the largest
  if (fit == s.by_size.end()) {
    grow(s, size, small);
    fit = s.by_size.find({s.gap_at_end(), s.gaps.rbegin()->first});
  }
  const auto [room, begin] = *fit;
  if (kind_ == Segments::fixed && !small && room - size <= mebibyte) size = room;
  s.drop_gap(begin);
  s.add_gap(begin + size, room - size);
  s.used.emplace(begin, size);
  return {stream, small, begin};
}

void CachingAllocator::free(const Block& block) {
  Segment& s = segments_[{block.stream, block.small}];
  const auto used = s.used.find(block.begin);
  std::int64_t begin = used->first, size = used->second;
  s.used.erase(used);
  if (const auto next = s.gaps.find(begin + size);
      next != s.gaps.end() && !s.begins.contains(begin + size)) {
    size += next->second;
    s.drop_gap(next->first);
  }
  if (auto before = s.gaps.lower_bound(begin);
      before != s.gaps.begin() && !s.begins.contains(begin)) {
    --before;
    if (before->first + before->second == begin) {
      begin = before->first;
      size += before->second;
      s.drop_gap(begin);
    }
  }
  s.add_gap(begin, size);
}

}  // namespace orrery::cli
