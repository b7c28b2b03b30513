// PyTorch's caching allocator, and what torchtitan printed of it.
#include "scenarios/cli/caching_allocator.hpp"

#include <doctest/doctest.h>

using orrery::Bytes;
using orrery::cli::CachingAllocator;
using orrery::cli::Segments;

namespace {
constexpr std::int64_t mebibyte = 1 << 20;
Bytes mebibytes(std::int64_t n) { return Bytes(n * mebibyte); }
}  // namespace

TEST_CASE("segments grow by pages of 20 MiB, those of small tensors by 2 MiB, and never shrink") {
  CachingAllocator a;
  const auto small = a.allocate(0, Bytes(1));
  CHECK(a.held() == mebibytes(2));
  a.allocate(0, mebibytes(1));  // of at most 1 MiB: behind it
  CHECK(a.held() == mebibytes(2));
  const auto large = a.allocate(0, mebibytes(19));
  CHECK(a.held() == mebibytes(22));
  const auto wider = a.allocate(0, mebibytes(2));  // begins in the first page, ends in the second
  CHECK(wider.begin == 19 * mebibyte);
  CHECK(a.held() == mebibytes(42));
  a.free(large);
  a.free(wider);
  a.free(small);
  CHECK(a.held() == mebibytes(42));
  CHECK(a.allocate(0, mebibytes(40)).begin == 0);  // gaps side by side are one
  CHECK(a.held() == mebibytes(42));
}

TEST_CASE("a tensor goes into the smallest gap that holds it, and at the end last") {
  CachingAllocator a;
  const auto first = a.allocate(0, mebibytes(8));
  a.allocate(0, mebibytes(2));
  const auto second = a.allocate(0, mebibytes(6));
  a.allocate(0, mebibytes(2));  // 2 MiB are left at the end
  a.free(first);
  a.free(second);
  CHECK(a.allocate(0, mebibytes(5)).begin == second.begin);
  CHECK(a.allocate(0, mebibytes(2)).begin == first.begin);  // not at the end, which fits exactly
  CHECK(a.held() == mebibytes(20));
}

TEST_CASE("what one stream gave back, another does not get") {
  CachingAllocator a;
  a.free(a.allocate(0, mebibytes(20)));
  a.allocate(1, mebibytes(20));
  CHECK(a.held() == mebibytes(40));
  a.allocate(0, mebibytes(20));
  CHECK(a.held() == mebibytes(40));
}

TEST_CASE("fixed segments are of 2 MiB for small tensors, of 20 below 10, else of the tensor") {
  CachingAllocator a(Segments::fixed);
  a.allocate(0, Bytes(1));
  CHECK(a.held() == mebibytes(2));
  a.allocate(0, mebibytes(9));
  CHECK(a.held() == mebibytes(22));
  a.allocate(0, mebibytes(9));  // behind it
  CHECK(a.held() == mebibytes(22));
  const auto own = a.allocate(0, Bytes(31 * mebibyte + 1));  // in steps of 2 MiB
  CHECK(a.held() == mebibytes(54));
  const auto next = a.allocate(0, mebibytes(30));
  CHECK(a.held() == mebibytes(84));
  a.free(own);
  a.free(next);
  a.allocate(0, mebibytes(60));  // segments side by side are not one
  CHECK(a.held() == mebibytes(144));
}

TEST_CASE("of a fixed segment's gap up to 1 MiB is given along with a large tensor") {
  CachingAllocator a(Segments::fixed);
  a.free(a.allocate(0, mebibytes(30)));
  const auto most = a.allocate(0, mebibytes(29));
  a.allocate(0, mebibytes(1) + Bytes(512));  // finds nothing left
  CHECK(a.held() == mebibytes(50));
  a.free(most);
  const auto part = a.allocate(0, mebibytes(28));
  CHECK(part.begin == most.begin);
  a.allocate(0, Bytes(3 * mebibyte / 2));  // of the 2 MiB behind it
  CHECK(a.held() == mebibytes(50));
}
