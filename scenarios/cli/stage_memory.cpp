#include "scenarios/cli/stage_memory.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "backend/core/text.hpp"
#include "platforms/cluster.hpp"
#include "scenarios/cli/simulation.hpp"
#include "scenarios/training.hpp"

namespace orrery::cli {

namespace {

// The peak is reached when two steps are under way, the most that progress allows.
constexpr std::int64_t steps_enough = 3;
constexpr std::size_t enough_fits = 3;

using Change = std::vector<std::string>;  // assignments, as --set takes them

// Of a map of scalars and such maps; what is null in it is left out.
std::string in_flow_style(const Node& node) {
  if (!node.is_map()) return node.text;
  std::vector<std::string> entries;
  for (const Node& child : node.children)
    if (!child.is_null()) entries.push_back(child.key + ": " + in_flow_style(child));
  return "{" + join(entries, ", ") + "}";
}

// Another algorithm with the optimizer of this one, and its limit of the gradient's norm.
std::string with_algorithm(const Scenario& s, const char* name) {
  Node algorithm = Node::map();
  algorithm.add("name", Node::scalar(name));
  for (const char* key : {"clip_norm", "optimizer"})
    if (const Node* kept = s.algorithm.options.find(key); kept != nullptr && !kept->is_null())
      algorithm.add(key, *kept);
  return "algorithm=" + in_flow_style(algorithm);
}

// Each alone: what costs no time first, then what costs little. Last, all that saves memory.
std::vector<Change> changes_of(const Scenario& s) {
  std::vector<Change> all;
  const Sharding& sharding = s.algorithm.plan.sharding;
  const bool repeats = s.data_parallel() > 1 && !sharding.parameters();
  const bool stores = s.memory.recompute.text == "none";
  if (repeats && sharding.stage == 0) all.push_back({with_algorithm(s, "zero")});
  if (stores && s.memory.attention == AttentionKind::stored)
    all.push_back({"memory.recompute=selective"});
  for (std::int64_t size = s.data.micro_batch / 2; size >= 1; size /= 2)
    all.push_back({fmt::format("data.micro_batch={}", size)});
  const bool less = !s.recompute || s.recompute_every_second;
  if (less) all.push_back({"memory.recompute=full"});
  if (repeats) all.push_back({with_algorithm(s, "fsdp")});
  for (int more : {2, 4, 8})
    all.push_back({fmt::format("parallel.pipeline={}", s.parallel.pipeline * more)});
  Change everything;
  if (repeats) everything.push_back(with_algorithm(s, "fsdp"));
  if (less) everything.emplace_back("memory.recompute=full");
  if (everything.size() > 1) all.push_back(everything);
  if (s.data.micro_batch > 1 && !everything.empty()) {
    everything.emplace_back("data.micro_batch=1");
    all.push_back(everything);
  }
  return all;
}

// The peak with these changes; nothing where they cannot be had or do not fit.
std::optional<Bytes> peak_with(const Arguments& arguments, const Change& change) {
  Arguments changed = arguments;
  changed.set.insert(changed.set.end(), change.begin(), change.end());
  Bytes peak;
  try {
    for (const StageMemory& stage : stages_of(read_scenario(changed))) {
      if (!stage.fits) return {};
      peak = std::max(peak, stage.memory.peak);
    }
  } catch (const Error& error) {
    const bool cannot_be_had =
        error.category() == Category::config || error.category() == Category::unavailable;
    if (!cannot_be_had) throw;
    return {};
  }
  return peak;
}

}  // namespace

std::vector<StageMemory> stages_of(Scenario scenario) {
  if (!scenario.algorithm.plan.services.empty())
    throw Error(Category::unavailable,
                scenario.algorithm.name +
                    " acts on messages, which need a world with time; `simulate` reports the peak");
  scenario.run.steps = std::min(scenario.run.steps, steps_enough);
  const Cluster cluster(scenario.machines, scenario.gpus());
  const World::Program program = training_program(scenario);
  WorldOptions options = world_options(scenario);
  const Segments segments =
      scenario.machines.stack.expandable_segments ? Segments::expandable : Segments::fixed;
  std::vector<StageMemory> stages;
  for (int stage = 0; stage < options.grid.size(Axis::pipeline); ++stage) {
    StageMemory s;
    s.rank = options.grid.rank_with(0, Axis::pipeline, stage);
    s.capacity = cluster.device_memory(s.rank);
    options.device_capacity = s.capacity;
    try {
      s.memory = memory_of_rank(options, program, s.rank, segments);
    } catch (const Error& error) {
      if (error.category() != Category::out_of_memory) throw;
      s.fits = false;
      options.device_capacity = Bytes(0);
      s.memory = memory_of_rank(options, program, s.rank, segments);
    }
    stages.push_back(s);
  }
  return stages;
}

std::vector<NearestFit> nearest_fits(const Arguments& arguments, const Scenario& scenario) {
  std::vector<NearestFit> found;
  for (const Change& change : changes_of(scenario)) {
    if (found.size() == enough_fits || (change.size() > 1 && !found.empty())) break;
    const std::optional<Bytes> peak = peak_with(arguments, change);
    if (!peak) continue;
    std::string text;
    for (const std::string& assignment : change)
      text += fmt::format("{}--set '{}'", text.empty() ? "" : " ", assignment);
    found.push_back({text, *peak});
  }
  return found;
}

}  // namespace orrery::cli
