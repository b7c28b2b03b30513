// `orrery memory`: the peak of every pipeline stage, without simulating time.
#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "backend/core/table.hpp"
#include "platforms/cluster.hpp"
#include "scenarios/cli/command.hpp"
#include "scenarios/cli/memory_world.hpp"
#include "scenarios/cli/result.hpp"
#include "scenarios/cli/simulation.hpp"
#include "scenarios/training.hpp"

namespace orrery::cli {

namespace {

// The peak is reached when two steps are under way, the most that progress
// allows.
constexpr std::int64_t steps_enough = 3;

struct Stage {
  int rank = 0;
  Bytes capacity;
  bool fits = true;
  RankMemory memory;
};

std::vector<Stage> stages_of(Scenario scenario) {
  if (!scenario.algorithm.plan.services.empty())
    throw Error(Category::unavailable,
                scenario.algorithm.name +
                    " acts on messages, which need a world with time; `simulate` reports the peak");
  scenario.run.steps = std::min(scenario.run.steps, steps_enough);
  const Cluster cluster(scenario.machines, scenario.gpus());
  const World::Program program = training_program(scenario);
  WorldOptions options = world_options(scenario);
  std::vector<Stage> stages;
  for (int stage = 0; stage < options.grid.size(Axis::pipeline); ++stage) {
    Stage s;
    s.rank = options.grid.rank_with(0, Axis::pipeline, stage);
    s.capacity = cluster.device_memory(s.rank);
    options.device_capacity = s.capacity;
    try {
      s.memory = memory_of_rank(options, program, s.rank);
    } catch (const Error& error) {
      if (error.category() != Category::out_of_memory) throw;
      s.fits = false;
      options.device_capacity = Bytes(0);
      s.memory = memory_of_rank(options, program, s.rank);
    }
    stages.push_back(s);
  }
  return stages;
}

void print_json(const Scenario& scenario, const std::vector<Stage>& stages) {
  nlohmann::ordered_json j;
  j["schema"] = "orrery.memory/1";
  j["scenario"] = std::filesystem::path(scenario.file).stem().string();
  j["model"] = scenario.model_spec.name;
  j["parameters"] = scenario.model_spec.parameters();
  j["ranks"] = scenario.gpus();
  j["stages"] = nlohmann::ordered_json::array();
  for (const Stage& s : stages) {
    nlohmann::ordered_json labels = nlohmann::ordered_json::object();
    for (int i = 0; i < label_count; ++i)
      labels[name(static_cast<Label>(i))] = s.memory.by_label[static_cast<std::size_t>(i)].value;
    nlohmann::ordered_json capacity = nullptr;
    if (s.capacity.value > 0) capacity = s.capacity.value;
    j["stages"].push_back({{"rank", s.rank},
                           {"peak_bytes", s.memory.peak.value},
                           {"capacity_bytes", capacity},
                           {"by_label", labels},
                           {"stage", j["stages"].size()},
                           {"fits", s.fits}});
  }
  fmt::print("{}\n", j.dump(2));
}

void print_table(const Scenario& scenario, const std::vector<Stage>& stages) {
  fmt::print("{}\n", heading(subject_of(scenario), false));
  std::vector<int> shown;  // labels that some stage holds something of
  for (int i = 0; i < label_count; ++i)
    if (std::any_of(stages.begin(), stages.end(), [i](const Stage& s) {
          return s.memory.by_label[static_cast<std::size_t>(i)].value > 0;
        }))
      shown.push_back(i);
  TextTable table;
  table.column("stage").column("rank");
  for (const int i : shown) table.column(name(static_cast<Label>(i)));
  table.column("peak").column("capacity").left("");
  for (std::size_t i = 0; i < stages.size(); ++i) {
    const Stage& s = stages[i];
    std::vector<std::string> row{std::to_string(i), std::to_string(s.rank)};
    for (const int label : shown)
      row.push_back(format_bytes(s.memory.by_label[static_cast<std::size_t>(label)]));
    row.push_back(format_bytes(s.memory.peak));
    row.push_back(s.capacity.value > 0 ? format_bytes(s.capacity) : "unlimited");
    row.emplace_back(s.fits ? "" : "does not fit");
    table.row(row);
  }
  fmt::print("{}", table.text());
}

}  // namespace

int memory(const Arguments& arguments) {
  const Scenario scenario = read_scenario(arguments);
  const std::vector<Stage> stages = stages_of(scenario);
  if (arguments.json)
    print_json(scenario, stages);
  else
    print_table(scenario, stages);
  return 0;
}

}  // namespace orrery::cli
