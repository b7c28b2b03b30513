// A training algorithm, as one rank runs it.
#pragma once

#include "algorithms/progress.hpp"
#include "backend/checkpoint.hpp"

namespace orrery {

// Made by set-up, which opens its channels and allocates its state. Algorithms compose: one may
// hold another and call its step.
class Algorithm {
 public:
  virtual ~Algorithm() = default;
  // Issues one optimizer step and returns; ends with Progress::step_issued.
  virtual void step(Progress& progress) = 0;
  // All state that outlives a step.
  virtual void visit(Archive& archive) = 0;
  // After the last step: whatever is still to be settled.
  virtual void finish() {}
};

// The main loop of every training program.
inline void train(Algorithm& algorithm, Progress& progress) {
  while (progress.more()) algorithm.step(progress);
  algorithm.finish();
  progress.finish();
}

}  // namespace orrery
