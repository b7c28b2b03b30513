#include "backend/rank_lost.hpp"

#include <algorithm>
#include <utility>

namespace orrery {

namespace {
std::string named(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank" : "ranks";
  for (std::size_t i = 0; i < ranks.size(); ++i)
    text += (i > 0 ? ", " : " ") + std::to_string(ranks[i]);
  return text + (ranks.size() == 1 ? " is lost" : " are lost");
}
}  // namespace

std::optional<Loss> take_loss_from(std::vector<Loss>& losses, Event event) {
  const auto found = std::ranges::find_if(losses, [&](const Loss& loss) {
    return loss.event.stream == event.stream && loss.event.ordinal <= event.ordinal;
  });
  if (found == losses.end()) return {};
  Loss loss = std::move(*found);
  losses.erase(found);
  return loss;
}

RankLost::RankLost(const Loss& loss)
    : Error(Category::rank_lost,
            named(loss.ranks) + ": no more is heard of what a communication waits for"),
      ranks_(loss.ranks) {
  with("operation", loss.operation);
}

}  // namespace orrery
