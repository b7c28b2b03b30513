// What the stages of a scenario's pipeline hold at their peaks, and what would make them fit.
#pragma once

#include <string>
#include <vector>

#include "scenarios/cli/command.hpp"
#include "scenarios/cli/memory_world.hpp"
#include "scenarios/scenario.hpp"

namespace orrery::cli {

struct StageMemory {
  int rank = 0;
  Bytes capacity;
  bool fits = true;
  RankMemory memory;
};

// Of the first rank of every stage, without simulating time.
std::vector<StageMemory> stages_of(Scenario scenario);

// A change of a scenario after which every stage fits.
struct NearestFit {
  std::string change;  // what to add to the command line: "--set data.micro_batch=2"
  Bytes peak;          // the largest of all stages
};

// The first few single changes that make the scenario fit, those that cost least time first; where
// no single one does, a combination. Empty when it fits only on other hardware.
std::vector<NearestFit> nearest_fits(const Arguments& arguments, const Scenario& scenario);

}  // namespace orrery::cli
