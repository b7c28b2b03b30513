#include "algorithms/gossip/pace.hpp"

#include <cmath>

namespace orrery {

namespace {

// Knuth's way: how many uniform numbers can be multiplied before the product falls below e^-mean.
std::int64_t by_products(Random& random, double mean) {
  const double least = std::exp(-mean);
  std::int64_t count = 0;
  for (double product = random.uniform(); product > least; product *= random.uniform()) ++count;
  return count;
}

}  // namespace

// The sum of numbers of smaller means, as e^-mean is 0 from 745 on.
std::int64_t poisson(Random& random, double mean) {
  constexpr double most = 500;
  std::int64_t count = 0;
  for (; mean > most; mean -= most) count += by_products(random, most);
  return count + by_products(random, mean);
}

Pace::Pace(Rank& rank, double rate, bool exact)
    : rank_(rank),
      rate_(rate),
      exact_(exact),
      gradient_side_(rank.signal("gradients")),
      averaging_side_(rank.signal("averagings")),
      quota_(draw()) {}

double Pace::draw() {
  const double mean = rate_ >= 1 ? rate_ : 1 / rate_;
  return exact_ ? mean : static_cast<double>(poisson(rank_.rng(Purpose::gossip), mean));
}

void Pace::meet(Signal& mine, Signal& other, const bool& other_ended) {
  if (other_ended) return;
  rank_.raise(mine);
  rank_.wait(other);
}

void Pace::gradient_done() {
  ++gradients_;
  if (rate_ >= 1) return meet(gradient_side_, averaging_side_, averagings_ended_);
  for (; static_cast<double>(gradients_) >= quota_ && !averagings_ended_; quota_ += draw())
    meet(gradient_side_, averaging_side_, averagings_ended_);
}

bool Pace::may_average() {
  if (rate_ >= 1) {
    for (; static_cast<double>(averagings_) >= quota_ && !gradients_ended_; quota_ += draw())
      meet(averaging_side_, gradient_side_, gradients_ended_);
  } else if (averagings_ > 0) {
    meet(averaging_side_, gradient_side_, gradients_ended_);
  }
  return !gradients_ended_;
}

void Pace::no_more_averagings() {
  averagings_ended_ = true;
  rank_.raise(averaging_side_);
}

void Pace::no_more_gradients() {
  gradients_ended_ = true;
  rank_.raise(gradient_side_);
}

}  // namespace orrery
