// How good the model is that all replicas have on average, along a run: of replicas that meet
// seldom, or one neighbour at a time, none alone tells it, and none of them is what one would keep.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "backend/checkpoint.hpp"
#include "scenarios/cli/result.hpp"
#include "scenarios/scenario.hpp"
#include "scenarios/training.hpp"

namespace orrery::cli {

class Consensus {
 public:
  explicit Consensus(const Scenario& scenario) : scenario_(scenario) {}  // which outlives this
  // Asks for the parameters that are to be evaluated, if any; must outlive the run.
  void listen(TrainingHooks& hooks);
  // The losses of the means on what is held out, computed on this machine's CPU.
  std::vector<ConsensusRow> losses() const;

 private:
  void add(std::int64_t step, const std::vector<Checkpoint>& ranks);
  const Scenario& scenario_;
  std::map<std::int64_t, Checkpoint> means_;  // by step
};

}  // namespace orrery::cli
