#include "scenarios/cli/told.hpp"

#include <sstream>

#include "scenarios/cli/curve.hpp"

namespace orrery::cli {

bool of_workers(const Scenario& scenario) { return scenario.data_parallel() == scenario.gpus(); }

void ask(Told& told, TrainingHooks& hooks, const Scenario& scenario) {
  hooks.held_out = &told.held_out;
  told.consensus.listen(hooks);
  hooks.staleness = &told.staleness;
  const bool values = scenario.twin || scenario.run.values == RunValues::real;
  if (!scenario.algorithm.plan.open_ended && !(values && of_workers(scenario))) return;
  told.unplanned.resize(static_cast<std::size_t>(scenario.gpus()));
  hooks.unplanned = &told.unplanned;
}

// Staleness, then samples by rank.
std::string text_of(const Told& told) {
  std::ostringstream text;
  text << told.staleness.counts().size() << '\n';
  for (const auto& [late, micro_batches] : told.staleness.counts())
    text << late.updates << ' ' << late.predicted << ' ' << micro_batches << '\n';
  for (std::size_t rank = 0; rank < told.unplanned.size(); ++rank)
    for (const auto& [step, samples] : told.unplanned[rank])
      text << rank << ' ' << step << ' ' << samples << '\n';
  return text.str();
}

void add_to(Told& told, const std::string& of_others) {
  std::istringstream text(of_others);
  std::size_t versions = 0;
  text >> versions;
  GradientVersions counts;
  for (std::int64_t updates = 0, micro_batches = 0; versions > 0; --versions) {
    bool predicted = false;
    text >> updates >> predicted >> micro_batches;
    counts[{updates, predicted}] += micro_batches;
  }
  told.staleness.add(counts);
  std::int64_t step = 0, samples = 0;
  for (std::size_t rank = 0; text >> rank >> step >> samples;)
    told.unplanned.at(rank)[step] = samples;
}

std::vector<std::vector<std::int64_t>> samples_of(const Scenario& scenario, const Told& told,
                                                  const RunReport& report, const ResultInput& in) {
  const std::int64_t planned = scenario.micro_batches() * scenario.data.micro_batch;
  std::vector<std::vector<std::int64_t>> all;
  for (std::size_t rank = 0; rank < told.unplanned.size(); ++rank) {
    std::vector<std::int64_t>& own = all.emplace_back(report.ranks[rank].steps.size(), planned);
    for (const auto& [step, samples] : told.unplanned[rank])
      own.at(static_cast<std::size_t>(step - first_step(in, report.ranks[rank]))) =
          scenario.twin ? samples / scenario.twin->data.micro_batch * scenario.data.micro_batch
                        : samples;
  }
  return all;
}

std::vector<StalenessRow> staleness_of(const GradientVersions& counts) {
  double all = 0;
  for (const auto& [late, micro_batches] : counts) all += static_cast<double>(micro_batches);
  std::vector<StalenessRow> rows;
  for (const auto& [late, micro_batches] : counts)
    rows.push_back({late.updates, late.predicted, static_cast<double>(micro_batches) / all});
  return rows;
}

}  // namespace orrery::cli
