// An event is a plain value: "stream `stream` of this rank has passed operation `ordinal`". It
// costs nothing to make or copy.
#pragma once

#include <cstdint>

namespace orrery {

struct Event {
  std::uint32_t stream = 0;
  std::uint64_t ordinal = 0;  // 0: before the first operation, so always done
  bool operator==(const Event&) const = default;
};

}  // namespace orrery
