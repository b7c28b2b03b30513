#include "backend/clock.hpp"

#include <algorithm>
#include <utility>

namespace orrery {

std::size_t StreamClock::first_row_after(std::uint32_t ordinal) const {
  std::size_t low = 0, high = past_.size() / row();
  while (low < high) {
    const std::size_t middle = (low + high) / 2;
    if (past_[middle * row()] <= ordinal)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

std::span<const std::uint32_t> StreamClock::at(std::uint32_t ordinal) const {
  if (past_.empty()) return {};
  const std::span rows(past_);
  // Mostly it is the latest that is asked for.
  if (rows[rows.size() - row()] <= ordinal) return rows.last(width_);
  const std::size_t later = first_row_after(ordinal);
  if (later == 0) return {};
  return rows.subspan((later - 1) * row() + 1, width_);
}

void StreamClock::learn(std::uint32_t ordinal, std::span<const std::uint32_t> known,
                        std::size_t streams, Event event) {
  if (streams > width_) widen(streams);
  now_.merge(known);
  now_.raise(event.stream, static_cast<std::uint32_t>(event.ordinal));
  if (past_.empty() || past_[past_.size() - row()] != ordinal) {
    past_.resize(past_.size() + row());
    past_[past_.size() - row()] = ordinal;
  }
  const auto now = now_.first(width_);
  std::copy(now.begin(), now.end(), past_.end() - static_cast<std::ptrdiff_t>(width_));
}

// Streams are opened in set-up, when there is little past.
void StreamClock::widen(std::size_t streams) {
  std::vector<std::uint32_t> wider;
  for (std::size_t i = 0; i < past_.size(); i += row()) {
    const auto begin = past_.begin() + static_cast<std::ptrdiff_t>(i);
    wider.insert(wider.end(), begin, begin + static_cast<std::ptrdiff_t>(row()));
    wider.resize(wider.size() + streams - width_);
  }
  past_ = std::move(wider);
  width_ = streams;
}

void StreamClock::forget_before(std::uint32_t ordinal) {
  const std::size_t later = first_row_after(ordinal);
  // The clock in force at `ordinal` stays.
  if (later > 1)
    past_.erase(past_.begin(), past_.begin() + static_cast<std::ptrdiff_t>((later - 1) * row()));
  crowded_ = std::max(enough, 2 * past_.size());
}

}  // namespace orrery
