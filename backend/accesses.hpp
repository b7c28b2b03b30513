// The uses of a storage that a later operation may have to be ordered behind.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/clock.hpp"

namespace orrery {

// One use of an interval of storage by an operation, kept until a later use stands for it.
struct Access {
  std::int64_t begin = 0, end = 0;  // elements
  const char* file = "";
  std::uint32_t ordinal = 0;
  std::uint16_t line = 0;
  std::uint8_t stream = 0;
  bool write : 1 = false;
  bool racy : 1 = false;
};
static_assert(sizeof(Access) == 32);

// Sorted by their elements, and two of them are of the same elements or have none in common: one
// that is of more than another is kept in pieces. So a use finds those that it meets by bisection,
// however many there are: a buffer of all gradients has a hundred, and each kernel uses a few.
class Accesses {
 public:
  Accesses() = default;
  explicit Accesses(const Access& birth) : all_{birth} {}

  // Adds `mine`, by a stream that knows `known`; those that it stands for are dropped. Returns one
  // of the same elements that nothing orders before it, until the next call; else null.
  const Access* add(const Access& mine, const Clock& known);

  const std::vector<Access>& all() const { return all_; }

 private:
  const Access* add_in_pieces(const Access& mine, const Clock& known, std::size_t first);

  std::vector<Access> all_;
};

}  // namespace orrery
