// How many averagings a worker makes per gradient: a barrier of two between its gradients and its
// averagings, so that neither runs ahead of the other.
//
// At `rate` of at least 1, gradients come to the barrier one by one, averagings when a quota is
// met, which each meeting raises by a Poisson number of mean `rate` (or by `rate`, where it is
// exact). Below 1 the roles are swapped, with a mean of 1 / rate. So an averaging runs beside the
// next gradient, and a worker waits for its own averagings only. (AdelNabli/ACiD, adp.py.)
#pragma once

#include <cstdint>

#include "backend/rank.hpp"

namespace orrery {

// A Poisson number of this mean, by about `mean` draws.
std::int64_t poisson(Random& random, double mean);

class Pace {
 public:
  Pace(Rank& rank, double rate, bool exact);

  // By the flow that computes gradients, after each.
  void gradient_done();
  // By the flow that averages: waits until it may begin another; whether it shall.
  bool may_average();
  void averaging_done() { ++averagings_; }
  // Either side ends, and nobody waits for it any more.
  void no_more_averagings();
  void no_more_gradients();
  bool gradients_ended() const { return gradients_ended_; }

  std::int64_t averagings() const { return averagings_; }

 private:
  double draw();
  void meet(Signal& mine, Signal& other, const bool& other_ended);

  Rank& rank_;
  double rate_;
  bool exact_, gradients_ended_ = false, averagings_ended_ = false;
  Signal &gradient_side_, &averaging_side_;
  std::int64_t gradients_ = 0, averagings_ = 0;
  double quota_ = 0;
};

}  // namespace orrery
