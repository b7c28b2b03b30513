// `orrery memory`: the peak of every pipeline stage, without simulating time.
#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "backend/core/table.hpp"
#include "scenarios/cli/command.hpp"
#include "scenarios/cli/result.hpp"
#include "scenarios/cli/simulation.hpp"
#include "scenarios/cli/stage_memory.hpp"

namespace orrery::cli {

namespace {

void print_json(const Scenario& scenario, const std::vector<StageMemory>& stages,
                const std::vector<NearestFit>& fits) {
  nlohmann::ordered_json j;
  j["schema"] = "orrery.memory/1";
  j["scenario"] = std::filesystem::path(scenario.file).stem().string();
  j["model"] = scenario.model_spec.name;
  j["parameters"] = scenario.model_spec.parameters();
  j["ranks"] = scenario.gpus();
  j["stages"] = nlohmann::ordered_json::array();
  for (const StageMemory& s : stages) {
    nlohmann::ordered_json labels = nlohmann::ordered_json::object();
    for (int i = 0; i < label_count; ++i)
      labels[name(static_cast<Label>(i))] = s.memory.by_label[static_cast<std::size_t>(i)].value;
    nlohmann::ordered_json capacity = nullptr;
    if (s.capacity.value > 0) capacity = s.capacity.value;
    j["stages"].push_back({{"rank", s.rank},
                           {"peak_bytes", s.memory.peak.value},
                           {"cached_bytes", s.memory.cached.value},
                           {"capacity_bytes", capacity},
                           {"by_label", labels},
                           {"stage", j["stages"].size()},
                           {"fits", s.fits}});
  }
  j["nearest_fits"] = nlohmann::ordered_json::array();
  for (const NearestFit& fit : fits)
    j["nearest_fits"].push_back({{"change", fit.change}, {"peak_bytes", fit.peak.value}});
  fmt::print("{}\n", j.dump(2));
}

void print_table(const Scenario& scenario, const std::vector<StageMemory>& stages,
                 const std::vector<NearestFit>& fits) {
  fmt::print("{}\n", heading(subject_of(scenario), false));
  std::vector<int> shown;  // labels that some stage holds something of
  for (int i = 0; i < label_count; ++i)
    if (std::any_of(stages.begin(), stages.end(), [i](const StageMemory& s) {
          return s.memory.by_label[static_cast<std::size_t>(i)].value > 0;
        }))
      shown.push_back(i);
  TextTable table;
  table.column("stage").column("rank");
  for (const int i : shown) table.column(name(static_cast<Label>(i)));
  table.column("peak").column("capacity").left("");
  for (std::size_t i = 0; i < stages.size(); ++i) {
    const StageMemory& s = stages[i];
    std::vector<std::string> row{std::to_string(i), std::to_string(s.rank)};
    for (const int label : shown)
      row.push_back(format_bytes(s.memory.by_label[static_cast<std::size_t>(label)]));
    row.push_back(format_bytes(s.memory.peak));
    row.push_back(s.capacity.value > 0 ? format_bytes(s.capacity) : "unlimited");
    row.emplace_back(s.fits ? "" : "does not fit");
    table.row(row);
  }
  fmt::print("{}", table.text());
  if (std::all_of(stages.begin(), stages.end(), [](const StageMemory& s) { return s.fits; }))
    return;
  fmt::print("\n{}\n",
             fits.empty() ? "no single change makes it fit on these GPUs" : "it fits with");
  for (const NearestFit& fit : fits)
    fmt::print("  {}   {} at the peak\n", fit.change, format_bytes(fit.peak));
}

}  // namespace

int memory(const Arguments& arguments) {
  const Scenario scenario = read_scenario(arguments);
  const std::vector<StageMemory> stages = stages_of(scenario);
  std::vector<NearestFit> fits;
  if (std::any_of(stages.begin(), stages.end(), [](const StageMemory& s) { return !s.fits; }))
    fits = nearest_fits(arguments, scenario);
  if (arguments.json)
    print_json(scenario, stages, fits);
  else
    print_table(scenario, stages, fits);
  return 0;
}

}  // namespace orrery::cli
