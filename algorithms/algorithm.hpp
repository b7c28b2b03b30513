// A training algorithm, as one rank runs it.
#pragma once

#include <optional>

#include "algorithms/progress.hpp"
#include "backend/checkpoint.hpp"

namespace orrery {

// Made by set-up, which opens its channels and allocates its state. Algorithms compose: one may
// hold another and add to what it issues.
class Algorithm {
 public:
  // Hidden by `true` where an algorithm keeps the optimizer state itself; its replica has none
  // then.
  static constexpr bool owns_optimizer = false;

  virtual ~Algorithm() = default;
  // Issues one optimizer step and returns where it ends.
  virtual StepEnd issue(Progress& progress) = 0;
  void step(Progress& progress) { progress.step_issued(issue(progress)); }
  // All state that outlives a step.
  virtual void visit(Archive& archive) = 0;
  // For an algorithm that holds this one and changes FlatParameters::weights on the compute stream
  // between steps. Before: the stream waits until they are as the last step leaves them.
  virtual void await_weights() {}
  // After: weights [begin, end) are new, and rounded to the parameters' type.
  virtual void weights_changed(std::int64_t /*begin*/, std::int64_t /*end*/) {}
  // What the rank sends because of such a change.
  virtual Bytes sent_after_change(std::int64_t /*begin*/, std::int64_t /*end*/) const { return {}; }
  // After the last step: whatever is still to be settled.
  virtual void finish() {}
  // What this rank sends to other replicas in the first `steps` steps of a training, by the cost
  // block of the algorithm's source; unknown where an algorithm does not tell.
  virtual std::optional<Bytes> sent(std::int64_t steps) const;
};

inline std::optional<Bytes> Algorithm::sent(std::int64_t) const { return std::nullopt; }

// The main loop of every training program.
inline void train(Algorithm& algorithm, Progress& progress) {
  while (progress.more()) algorithm.step(progress);
  algorithm.finish();
  progress.finish();
}

}  // namespace orrery
