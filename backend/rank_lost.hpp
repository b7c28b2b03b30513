// Ranks that are no more: how those that wait for them learn it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "backend/core/error.hpp"
#include "backend/event.hpp"

namespace orrery {

// A communication that was given up, because some members' programs ended without issuing it.
struct Loss {
  Event event;
  std::vector<int> ranks;  // those members, ascending
  std::string operation;
};

// The first of `losses` that is no later than the event on its stream, which is taken out.
std::optional<Loss> take_loss_from(std::vector<Loss>& losses, Event event);

// Thrown by the wait for such a communication. The program may catch it, regroup without the lost
// ranks and go on: the communication has left its operands as they were.
class RankLost : public Error {
 public:
  explicit RankLost(const Loss& loss);
  const std::vector<int>& ranks() const { return ranks_; }  // global numbers

 private:
  std::vector<int> ranks_;
};

}  // namespace orrery
