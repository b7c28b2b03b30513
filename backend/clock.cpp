#include "backend/clock.hpp"

#include <algorithm>

namespace orrery {

const Clock& StreamClock::at(std::uint32_t ordinal) const {
  static const Clock nothing;
  const auto later =
      std::upper_bound(history_.begin(), history_.end(), ordinal,
                       [](std::uint32_t o, const Snapshot& s) { return o < s.ordinal; });
  return later == history_.begin() ? nothing : std::prev(later)->clock;
}

void StreamClock::learn(std::uint32_t ordinal, const Clock& clock, std::size_t streams) {
  now_.merge(clock, streams);
  if (!history_.empty() && history_.back().ordinal == ordinal)
    history_.back().clock = now_;
  else
    history_.push_back({ordinal, now_});
}

void StreamClock::forget_before(std::uint32_t ordinal) {
  const auto later =
      std::upper_bound(history_.begin(), history_.end(), ordinal,
                       [](std::uint32_t o, const Snapshot& s) { return o < s.ordinal; });
  // The snapshot in force at `ordinal` stays.
  if (later - history_.begin() > 1) history_.erase(history_.begin(), std::prev(later));
}

}  // namespace orrery
