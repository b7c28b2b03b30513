// `orrery race`: algorithms against each other, to a loss.
#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "backend/core/progress.hpp"
#include "backend/core/table.hpp"
#include "backend/core/text.hpp"
#include "scenarios/cli/children.hpp"
#include "scenarios/cli/command.hpp"
#include "scenarios/cli/files.hpp"
#include "scenarios/cli/line_chart.hpp"
#include "scenarios/cli/simulation.hpp"

namespace orrery::cli {

namespace {

using Json = nlohmann::ordered_json;

// A loss counts as reached when the mean over as many steps up to it is below it.
constexpr std::size_t smoothing = 10;

// What makes it the scenario's algorithm: YAML as it was given; or a name with some of its keys
// ("diloco:inner_steps=20,codec.name=fp16") and the optimizer of the scenario's own algorithm.
std::vector<std::string> settings_of(const std::string& given, const Scenario& base) {
  if (given.starts_with("{")) return {"algorithm=" + given};
  const std::size_t colon = std::min(given.find(':'), given.size());
  const std::string name = given.substr(0, colon);
  const AlgorithmEntry* entry = find_algorithm(name);
  const bool holds = entry != nullptr &&
                     std::find(entry->composes_with.begin(), entry->composes_with.end(), "ddp") !=
                         entry->composes_with.end();
  std::vector<std::string> settings{"algorithm={name: " + name + "}"};
  for (const Node& key : to_node(base.algorithm.plan.optimizer).children)
    if (key.is_scalar())
      settings.push_back(
          fmt::format("algorithm.{}optimizer.{}={}", holds ? "inner." : "", key.key, key.text));
  if (colon < given.size())
    for (const std::string& own : split(given.substr(colon + 1), ','))
      settings.push_back("algorithm." + own);
  return settings;
}

// The curve of one algorithm, simulated: {algorithm, steps, seconds: [...], bytes_per_step, loss:
// [...]}.
std::string simulated(Arguments arguments, const std::vector<std::string>& settings) {
  arguments.set.insert(arguments.set.end(), settings.begin(), settings.end());
  arguments.quiet = true;
  const Scenario scenario = read_scenario(arguments);
  const Outcome outcome = simulate_scenario(scenario, arguments, "");
  Json j{{"algorithm", scenario.algorithm.name}, {"seconds", Json::array()}};
  std::vector<double> ends;
  for (const RankReport& rank : outcome.report.ranks) {
    ends.resize(std::max(ends.size(), rank.steps.size()));
    for (std::size_t step = 0; step < rank.steps.size(); ++step)
      ends[step] = std::max(ends[step], rank.steps[step].at.seconds().value);
  }
  j["seconds"] = ends;
  double bytes = 0;
  for (const CommunicationRow& row : outcome.result.communication) bytes += row.bytes_per_rank;
  j["bytes_per_step"] = bytes;
  j["tokens_per_step"] = outcome.result.input.tokens_per_step;
  j["loss"] = outcome.result.loss;
  return j.dump();
}

// The first step that reaches the target, counted from 1; 0: none does.
std::size_t steps_to(const std::vector<double>& loss, double target) {
  double sum = 0;
  for (std::size_t step = 0; step < loss.size(); ++step) {
    sum += loss[step] - (step >= smoothing ? loss[step - smoothing] : 0);
    if (sum / static_cast<double>(std::min(step + 1, smoothing)) <= target) return step + 1;
  }
  return 0;
}

void judge(Json& curve, double target) {
  const std::size_t steps = steps_to(curve["loss"].get<std::vector<double>>(), target);
  const bool reached = steps > 0;
  curve["steps_to_target"] = reached ? Json(steps) : Json(nullptr);
  curve["seconds_to_target"] = reached ? curve["seconds"][steps - 1] : Json(nullptr);
  curve["bytes_to_target"] =
      reached ? Json(curve["bytes_per_step"].get<double>() * static_cast<double>(steps))
              : Json(nullptr);
}

std::string table_of(const std::vector<Json>& curves, double target) {
  TextTable table;
  table.left("algorithm")
      .column("steps to")
      .column("time to")
      .column("sent to")
      .column("last loss")
      .column("time per step");
  table.row({"", fmt::format("loss {:g}", target), fmt::format("loss {:g}", target), "it, per rank",
             "", ""});
  for (const Json& c : curves) {
    const bool reached = !c["steps_to_target"].is_null();
    const auto& seconds = c["seconds"];
    table.row({c["algorithm"].get<std::string>(),
               reached ? std::to_string(c["steps_to_target"].get<int>()) : "not reached",
               reached ? format_seconds(Seconds(c["seconds_to_target"].get<double>())) : "-",
               reached ? format_bytes(
                             Bytes(static_cast<std::int64_t>(c["bytes_to_target"].get<double>())))
                       : "-",
               fmt::format("{:.4f}", c["loss"].back().get<double>()),
               format_seconds(
                   Seconds(seconds.back().get<double>() / static_cast<double>(seconds.size())))});
  }
  return table.text();
}

void write_race(const std::string& folder, const std::vector<Json>& curves, double target) {
  make_result_folder(folder);
  const std::filesystem::path out(folder);
  write_file_atomically((out / "race.json").string(), Json(curves).dump(2) + "\n");
  LineChart chart{"simulated seconds", "loss", {}, target};
  for (const Json& c : curves)
    chart.lines.push_back({c["algorithm"].get<std::string>(),
                           c["seconds"].get<std::vector<double>>(),
                           c["loss"].get<std::vector<double>>()});
  write_file_atomically((out / "race.svg").string(), to_svg(chart));
}

}  // namespace

int race(const Arguments& arguments) {
  if (!arguments.target_loss)
    throw Error(Category::usage, "a race needs --target-loss, the loss to run to");
  Arguments base = arguments;
  base.positional = {arguments.scenario.empty() ? "scenarios/race.yaml" : arguments.scenario};
  const Scenario scenario = read_scenario(base);
  if (scenario.run.values != RunValues::real && scenario.twin == nullptr)
    throw Error(Category::config, "a race needs losses: set value_model or run.values")
        .with("scenario", scenario.file);
  std::vector<Work> work;
  for (const std::string& given : arguments.positional)
    work.push_back(
        [&base, settings = settings_of(given, scenario)] { return simulated(base, settings); });
  std::vector<Json> curves(work.size());
  ProgressLine line(std::cerr, stderr_progress(arguments.quiet));
  std::size_t done = 0;
  run_in_children(work, usable_cores(), [&](std::size_t i, const ChildResult& result) {
    if (!result.error.empty()) throw Error(result.category, result.error);
    curves[i] = Json::parse(result.text);
    judge(curves[i], *arguments.target_loss);
    line.update([&] { return fmt::format("{} of {} algorithms", ++done, work.size()); });
  });
  line.clear();
  if (!arguments.out.empty()) write_race(arguments.out, curves, *arguments.target_loss);
  if (arguments.json)
    fmt::print("{}\n", Json(curves).dump(2));
  else
    fmt::print("{}\n{}", heading(subject_of(scenario), false),
               table_of(curves, *arguments.target_loss));
  return 0;
}

}  // namespace orrery::cli
