// What ranks tell at the end of a training, beside their reports.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "scenarios/cli/consensus.hpp"
#include "scenarios/cli/result.hpp"
#include "scenarios/scenario.hpp"
#include "scenarios/training.hpp"

namespace orrery::cli {

struct Told {
  explicit Told(const Scenario& scenario) : consensus(scenario) {}

  std::optional<HeldOut> held_out;
  Consensus consensus;
  StalenessSum staleness;
  std::vector<std::map<std::int64_t, std::int64_t>> unplanned;  // empty: not asked for
};

// Whether each rank is a worker, of which one can tell what it did.
bool of_workers(const Scenario& scenario);

// Asks for all of it; must outlive the run.
void ask(Told& told, TrainingHooks& hooks, const Scenario& scenario);

// What the ranks of a process told, but what only rank 0 tells, for the process that speaks; which
// adds it to its own.
std::string text_of(const Told& told);
void add_to(Told& told, const std::string& of_others);

// By rank and step of its own; of a value model's, as many of the timed model's as stand for them.
std::vector<std::vector<std::int64_t>> samples_of(const Scenario& scenario, const Told& told,
                                                  const RunReport& report, const ResultInput& in);
std::vector<StalenessRow> staleness_of(const GradientVersions& counts);

}  // namespace orrery::cli
