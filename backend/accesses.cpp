#include "backend/accesses.hpp"

#include <algorithm>

namespace orrery {

namespace {

bool is_ordered(const Access& earlier, const Access& mine, const Clock& known) {
  return earlier.stream == mine.stream || known[earlier.stream] >= earlier.ordinal;
}

bool clashes(const Access& earlier, const Access& mine, bool ordered) {
  return !ordered && (earlier.write || mine.write) && !earlier.racy && !mine.racy;
}

// Whatever is ordered after `mine` is ordered after `earlier` as well, and whatever clashes with
// `earlier` clashes with `mine`.
bool stands_for(const Access& mine, const Access& earlier, bool ordered) {
  return ordered && (earlier.racy || !mine.racy) &&
         (mine.write || (earlier.stream == mine.stream && !earlier.write));
}

}  // namespace

const Access* Accesses::add(const Access& mine, const Clock& known) {
  if (mine.begin == mine.end) return nullptr;
  const auto first = std::partition_point(all_.begin(), all_.end(),
                                          [&mine](const Access& x) { return x.end <= mine.begin; });
  const bool alike = first == all_.end() || first->begin >= mine.end ||
                     (first->begin == mine.begin && first->end == mine.end);
  if (!alike) return add_in_pieces(mine, known, static_cast<std::size_t>(first - all_.begin()));
  auto kept = first, at = first;
  for (; at != all_.end() && at->begin < mine.end; ++at) {
    const bool ordered = is_ordered(*at, mine, known);
    if (clashes(*at, mine, ordered)) return &*at;
    if (!stands_for(mine, *at, ordered)) *kept++ = *at;
  }
  if (kept == at) {
    all_.insert(at, mine);
  } else {
    *kept++ = mine;
    all_.erase(kept, at);
  }
  return nullptr;
}

const Access* Accesses::add_in_pieces(const Access& mine, const Clock& known, std::size_t first) {
  thread_local std::vector<Access> pieces;  // room that is kept: there are many calls
  pieces.clear();
  const auto put = [](Access piece, std::int64_t begin, std::int64_t end) {
    piece.begin = begin;
    piece.end = end;
    pieces.push_back(piece);
  };
  std::int64_t done = mine.begin;  // `mine` is put as far as here
  bool goes_on = false;            // its last piece, beside which nothing was kept
  const auto put_mine = [&](std::int64_t end, bool alone) {
    if (end == done) return;
    if (alone && goes_on)
      pieces.back().end = end;
    else
      put(mine, done, end);
    goes_on = alone;
    done = end;
  };
  std::size_t at = first;
  while (at < all_.size() && all_[at].begin < mine.end) {
    const std::int64_t begin = all_[at].begin, end = all_[at].end;
    const std::int64_t from = std::max(begin, mine.begin), to = std::min(end, mine.end);
    const std::size_t here = at;
    while (at < all_.size() && all_[at].begin == begin) ++at;
    if (begin < from)
      for (std::size_t i = here; i < at; ++i) put(all_[i], begin, from);
    put_mine(from, true);
    const std::size_t before = pieces.size();
    for (std::size_t i = here; i < at; ++i) {
      const bool ordered = is_ordered(all_[i], mine, known);
      if (clashes(all_[i], mine, ordered)) return &all_[i];
      if (!stands_for(mine, all_[i], ordered)) put(all_[i], from, to);
    }
    put_mine(to, pieces.size() == before);
    if (to < end)
      for (std::size_t i = here; i < at; ++i) put(all_[i], to, end);
  }
  put_mine(mine.end, true);
  const auto place = all_.erase(all_.begin() + static_cast<std::ptrdiff_t>(first),
                                all_.begin() + static_cast<std::ptrdiff_t>(at));
  all_.insert(place, pieces.begin(), pieces.end());
  return nullptr;
}

}  // namespace orrery
