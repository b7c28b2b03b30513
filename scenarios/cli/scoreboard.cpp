// `orrery scoreboard`: published measurements against what is predicted for them.
#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <map>

#include "backend/core/progress.hpp"
#include "backend/core/table.hpp"
#include "scenarios/cli/children.hpp"
#include "scenarios/cli/command.hpp"
#include "scenarios/cli/scoreboard_report.hpp"
#include "scenarios/cli/simulation.hpp"
#include "scenarios/published/not_scored.hpp"
#include "scenarios/published/prediction.hpp"

namespace orrery::cli {

namespace {

namespace fs = std::filesystem;

// All of scenarios/published but the table of aliases, sorted.
std::vector<std::string> published_files(const std::string& root) {
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(fs::path(root) / "scenarios" / "published"))
    if (entry.path().extension() == ".yaml" && entry.path().filename() != "aliases.yaml")
      files.push_back(entry.path().string());
  std::sort(files.begin(), files.end());
  return files;
}

// Throws ConfigError with what is wrong in any of them.
std::vector<MeasuredFile> read_files(const std::vector<std::string>& paths, ProgressLine& line) {
  std::vector<MeasuredFile> files;
  std::vector<ConfigMessage> wrong;
  for (const std::string& path : paths) {
    line.update([&] { return fmt::format("reading {}", path); });
    try {
      files.push_back(read_measured_file(path));
    } catch (const ConfigError& error) {
      wrong.insert(wrong.end(), error.messages.begin(), error.messages.end());
    }
  }
  if (!wrong.empty()) throw ConfigError(std::move(wrong));
  return files;
}

// A step to be simulated, for all cases that are the same.
struct Step {
  std::shared_ptr<const Scenario> scenario;
  std::vector<std::size_t> cases;
  Bytes capacity;  // of a GPU, which the simulation does not enforce
};

// "<step time in seconds> <peak bytes>", exact.
std::string simulated(const Scenario& scenario) {
  Arguments silent;
  silent.quiet = true;
  try {
    const Result result = simulate_scenario(scenario, silent, "").result;
    return fmt::format("{:.17g} {}", result.step_time_s, result.peak_bytes.value);
  } catch (const std::exception& error) {
    throw Error(Category::internal, one_sentence(error));
  }
}

void take(const ChildResult& from, const Step& step, ScoredCase& to) {
  if (!from.error.empty()) {
    to.skipped = "the simulation failed: " + from.error;
    return;
  }
  char* rest = nullptr;
  to.predicted = std::strtod(from.text.c_str(), &rest);
  const Bytes peak(std::strtoll(rest, nullptr, 10));
  if (step.capacity.value > 0 && peak > step.capacity)
    note(to.assumptions, "memory.capacity", format_bytes(step.capacity),
         fmt::format("not enforced: {} are predicted to be needed", format_bytes(peak)));
}

// The largest first, so that none is left alone at the end.
void simulate_all(std::vector<Step> steps, std::vector<ScoredCase>& cases, ProgressLine& line) {
  std::stable_sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) {
    const auto size = [](const Scenario& s) {
      return s.gpus() * static_cast<double>(s.micro_batches()) *
             static_cast<double>(s.model_spec.layers());
    };
    return size(*a.scenario) > size(*b.scenario);
  });
  std::vector<Work> work;
  for (const Step& step : steps)
    work.push_back([scenario = step.scenario] { return simulated(*scenario); });
  std::size_t done = 0;
  run_in_children(work, usable_cores(), [&](std::size_t s, const ChildResult& result) {
    for (const std::size_t c : steps[s].cases) take(result, steps[s], cases[c]);
    ++done;
    line.update([&] { return fmt::format("simulated {} of {} steps", done, steps.size()); });
  });
}

}  // namespace

int scoreboard(const Arguments& arguments) {
  const std::string root = data_root();
  ProgressLine line(std::cerr, stderr_progress(arguments.quiet));
  const std::vector<MeasuredFile> files =
      read_files(arguments.positional.empty() ? published_files(root) : arguments.positional, line);
  const Predictor predictor(root);
  std::vector<ScoredCase> cases;
  std::vector<Step> steps;
  std::map<std::string, std::size_t> known;
  for (const MeasuredFile& file : files)
    for (const MeasuredCase& c : file.cases) {
      line.update([&] { return fmt::format("preparing {} of {}", c.id, file.name); });
      Prediction p = predictor.predict(file, c);
      if (p.scenario) {
        const auto [at, fresh] = known.emplace(p.same, steps.size());
        if (fresh) steps.push_back({p.scenario, {}, p.capacity});
        steps[at->second].cases.push_back(cases.size());
      }
      ScoredCase scored;
      scored.id = c.id;
      scored.file = file.name;
      scored.kind = c.kind;
      scored.unit = std::move(p.unit);
      if (!scored.unit.empty()) scored.measured = p.measured;
      scored.predicted = p.predicted;
      scored.skipped = std::move(p.skipped);
      scored.assumptions = std::move(p.assumptions);
      cases.push_back(std::move(scored));
    }
  simulate_all(std::move(steps), cases, line);
  line.clear();
  fmt::print("{}", arguments.json
                       ? scoreboard_json(cases)
                       : scoreboard_table(cases, use_color(arguments.color, is_terminal(1))));
  return 0;
}

}  // namespace orrery::cli
