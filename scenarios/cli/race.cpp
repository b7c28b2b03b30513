// `orrery race`: algorithms against each other, to a loss.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
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
#include "scenarios/cli/value_twin.hpp"

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

// The curve of one algorithm, simulated. Lists by step, each of what it took until then.
std::string simulated(Arguments arguments, const std::string& given,
                      const std::vector<std::string>& settings) {
  arguments.set.insert(arguments.set.end(), settings.begin(), settings.end());
  arguments.quiet = true;
  const Scenario scenario = read_scenario(arguments);
  const Outcome outcome = simulate_scenario(scenario, arguments, "");
  const Json result = Json::parse(to_json(outcome.result)), &at = result["loss_at"];
  const Json curve{{"algorithm", scenario.algorithm.name},
                   {"given", given},
                   {"loss", result["loss"]},
                   {"seconds", at["seconds"]},
                   {"samples", at["samples"]},
                   {"bytes_per_rank", at["bytes_per_rank"]},
                   {"staleness", result["staleness"]},
                   {"workers", result.value("workers", Json::array())}};
  return curve.dump();
}

// By step; JSON has no number for the loss of a training that diverged.
std::vector<double> losses_of(const Json& curve) {
  std::vector<double> losses;
  for (const Json& loss : curve["loss"])
    losses.push_back(loss.is_number() ? loss.get<double>() : std::nan(""));
  return losses;
}

// The first step that reaches the target, counted from 1; 0: none does.
std::size_t steps_to(const std::vector<double>& loss, double target) {
  for (std::size_t step = 0; step < loss.size(); ++step) {
    const std::size_t from = step + 1 - std::min(step + 1, smoothing);
    double sum = 0;
    for (std::size_t s = from; s <= step; ++s) sum += loss[s];
    if (sum / static_cast<double>(step + 1 - from) <= target) return step + 1;
  }
  return 0;
}

void judge(Json& curve, double target) {
  const std::size_t steps = steps_to(losses_of(curve), target);
  curve["steps_to_target"] = steps > 0 ? Json(steps) : Json(nullptr);
  for (const char* what : {"seconds", "samples", "bytes_per_rank"})
    curve[fmt::format("{}_to_target", what)] = steps > 0 ? curve[what][steps - 1] : Json(nullptr);
}

double mean_idle(const Json& curve) {
  double sum = 0;
  for (const Json& worker : curve["workers"]) sum += worker["idle_share"].get<double>();
  return sum / static_cast<double>(std::max<std::size_t>(1, curve["workers"].size()));
}

// Updates that a gradient was late, on average.
double mean_staleness(const Json& curve) {
  double sum = 0;
  for (const Json& row : curve["staleness"])
    sum += row["updates"].get<double>() * row["share"].get<double>();
  return sum;
}

std::string table_of(const std::vector<Json>& curves, double target) {
  TextTable table;
  table.left("algorithm")
      .column(fmt::format("to loss {:g}", target), "steps")
      .column("time", "until then")
      .column("samples", "until then")
      .column("sent", "per rank")
      .column("step", "on average")
      .column("idle", "on average")
      .column("late", "updates")
      .column("last", "loss");
  for (const Json& c : curves) {
    const bool reached = !c["steps_to_target"].is_null();
    const auto text = [&](const char* key, auto format) {
      return reached ? format(c[key].get<double>()) : std::string("-");
    };
    const double last = losses_of(c).back();
    const double step = c["seconds"].back().get<double>() / static_cast<double>(c["loss"].size());
    table.row({c["given"].get<std::string>(),
               reached ? std::to_string(c["steps_to_target"].get<int>()) : "not reached",
               text("seconds_to_target", [](double s) { return format_seconds(Seconds(s)); }),
               text("samples_to_target", [](double n) { return format_count(n); }),
               text("bytes_per_rank_to_target",
                    [](double b) { return format_bytes(Bytes(std::llround(b))); }),
               format_seconds(Seconds(step)),
               c["workers"].empty() ? "-" : format_percent(mean_idle(c)),
               fmt::format("{:.2f}", mean_staleness(c)),
               std::isfinite(last) ? fmt::format("{:.4f}", last) : "diverged"});
  }
  return table.text();
}

Json to_json(const std::vector<Json>& curves, double target) {
  return {{"schema", "orrery.race/1"}, {"target_loss", target}, {"algorithms", curves}};
}

void write_race(const std::string& folder, const std::vector<Json>& curves, double target) {
  make_result_folder(folder);
  const std::filesystem::path out(folder);
  write_file_atomically((out / "race.json").string(), to_json(curves, target).dump(2) + "\n");
  LineChart chart{"simulated seconds", "loss", {}, target};
  for (const Json& c : curves)
    chart.lines.push_back(
        {c["given"].get<std::string>(), c["seconds"].get<std::vector<double>>(), losses_of(c)});
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
    work.push_back([&base, &given, settings = settings_of(given, scenario)] {
      return simulated(base, given, settings);
    });
  std::vector<Json> curves(work.size());
  ProgressLine line(std::cerr, stderr_progress(arguments.quiet));
  std::size_t done = 0;
  run_in_children(work, usable_cores(), [&](std::size_t i, const ChildResult& result) {
    if (!result.error.empty()) throw Error(result.category, result.error);
    curves[i] = Json::parse(result.text);
    judge(curves[i], *arguments.target_loss);
    ++done;
    line.update([&] { return fmt::format("{} of {} algorithms", done, work.size()); });
  });
  line.clear();
  if (!arguments.out.empty()) write_race(arguments.out, curves, *arguments.target_loss);
  if (arguments.json)
    fmt::print("{}\n", to_json(curves, *arguments.target_loss).dump(2));
  else
    fmt::print("{}\n{}", heading(subject_of(scenario), false),
               table_of(curves, *arguments.target_loss));
  return 0;
}

}  // namespace orrery::cli
