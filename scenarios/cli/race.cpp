// `orrery race`: algorithms against each other, to a loss.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

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

// Who runs: an algorithm as it was given, under a seed.
struct Runner {
  std::string given, seed;
};

// What is drawn and raced to the target: by step, or at the steps after which the mean of all
// workers was evaluated, each with what it took until then.
Json points_of(const Result& result) {
  const std::vector<ConsensusRow>& evaluations = result.input.loss_consensus;
  const Curve& curve = result.curve;
  Json points{{"loss_of", evaluations.empty() ? "workers" : "mean of workers"}};
  const auto add = [&](std::int64_t step, double loss, double seconds, std::size_t place) {
    points["steps"].push_back(step);
    points["loss"].push_back(loss);
    points["seconds"].push_back(seconds);
    points["samples"].push_back(curve.samples.at(place));
    points["bytes_per_rank"].push_back(curve.bytes_per_rank.at(place));
  };
  for (const ConsensusRow& row : evaluations) {
    const auto later = std::ranges::upper_bound(curve.seconds, row.seconds);
    const auto done = std::max<std::ptrdiff_t>(1, later - curve.seconds.begin());
    add(row.step, row.loss, row.seconds, static_cast<std::size_t>(done - 1));
  }
  for (std::size_t place = 0; evaluations.empty() && place < curve.loss.size(); ++place)
    add(static_cast<std::int64_t>(place + 1), curve.loss[place], curve.seconds[place], place);
  return points;
}

// The curve of one runner, simulated: {algorithm, given, seed, loss_of, steps, loss, seconds,
// samples, bytes_per_rank, staleness, workers}.
std::string simulated(Arguments arguments, const Runner& runner,
                      const std::vector<std::string>& settings) {
  arguments.seed = runner.seed;
  arguments.set.insert(arguments.set.end(), settings.begin(), settings.end());
  arguments.quiet = true;
  const Scenario scenario = read_scenario(arguments);
  const Outcome outcome = simulate_scenario(scenario, arguments, "");
  const Json result = Json::parse(to_json(outcome.result));
  Json curve{
      {"algorithm", scenario.algorithm.name}, {"given", runner.given}, {"seed", scenario.run.seed}};
  curve.update(points_of(outcome.result));
  curve["staleness"] = result["staleness"];
  curve["workers"] = result.value("workers", Json::array());
  return curve.dump();
}

// JSON has no number for the loss of a training that diverged.
std::vector<double> losses_of(const Json& curve) {
  std::vector<double> losses;
  for (const Json& loss : curve["loss"])
    losses.push_back(loss.is_number() ? loss.get<double>() : std::nan(""));
  return losses;
}

// The place in a curve's lists where it is at the target; none: it never is.
std::optional<std::size_t> reaches(const Json& curve, double target) {
  const std::vector<double> loss = losses_of(curve);
  const std::size_t window = curve["loss_of"] == "workers" ? smoothing : 1;
  for (std::size_t place = 0; place < loss.size(); ++place) {
    const std::size_t from = place + 1 - std::min(place + 1, window);
    double sum = 0;
    for (std::size_t s = from; s <= place; ++s) sum += loss[s];
    if (sum / static_cast<double>(place + 1 - from) <= target) return place;
  }
  return std::nullopt;
}

void judge(Json& curve, double target) {
  const std::optional<std::size_t> place = reaches(curve, target);
  for (const char* what : {"steps", "seconds", "samples", "bytes_per_rank"})
    curve[fmt::format("{}_to_target", what)] = place ? curve[what][*place] : Json(nullptr);
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

double seconds_to_target(const Json& curve) {
  const Json& seconds = curve["seconds_to_target"];
  return seconds.is_null() ? std::numeric_limits<double>::infinity() : seconds.get<double>();
}

// Of each algorithm its curves, the soonest at the target first.
std::vector<std::vector<Json>> by_algorithm(const std::vector<Json>& curves) {
  std::vector<std::vector<Json>> groups;
  for (const Json& curve : curves) {
    const auto same = std::find_if(groups.begin(), groups.end(), [&](const auto& group) {
      return group.front()["given"] == curve["given"];
    });
    if (same == groups.end())
      groups.push_back({curve});
    else
      same->push_back(curve);
  }
  for (std::vector<Json>& group : groups)
    std::stable_sort(group.begin(), group.end(), [](const Json& a, const Json& b) {
      return seconds_to_target(a) < seconds_to_target(b);
    });
  return groups;
}

// Of several seeds, that in the middle, and how far the others are from it.
std::string table_of(const std::vector<Json>& curves, double target) {
  const std::vector<std::vector<Json>> groups = by_algorithm(curves);
  const bool seeds = groups.size() < curves.size();
  const auto seconds_text = [](const Json& curve) {
    return curve["seconds_to_target"].is_null()
               ? std::string("never")
               : format_seconds(Seconds(curve["seconds_to_target"].get<double>()));
  };
  TextTable table;
  table.left("algorithm")
      .column(fmt::format("to loss {:g}", target), "steps")
      .column("time", "until then");
  if (seeds) table.column("of all seeds", "soonest to last");
  table.column("samples", "until then")
      .column("sent", "per rank")
      .column("step", "on average")
      .column("idle", "on average")
      .column("late", "updates")
      .column("last", "loss");
  for (const std::vector<Json>& group : groups) {
    const Json& c = group[group.size() / 2];
    const bool reached = !c["steps_to_target"].is_null();
    const auto text = [&](const char* key, auto format) {
      return reached ? format(c[key].get<double>()) : std::string("-");
    };
    const double last = losses_of(c).back();
    const double step = c["seconds"].back().get<double>() / c["steps"].back().get<double>();
    std::vector<std::string> row{
        c["given"].get<std::string>(),
        reached ? std::to_string(c["steps_to_target"].get<int>()) : "not reached",
        text("seconds_to_target", [](double s) { return format_seconds(Seconds(s)); })};
    if (seeds)
      row.push_back(
          fmt::format("{} to {}", seconds_text(group.front()), seconds_text(group.back())));
    row.push_back(text("samples_to_target", [](double n) { return format_count(n); }));
    row.push_back(text("bytes_per_rank_to_target",
                       [](double b) { return format_bytes(Bytes(std::llround(b))); }));
    row.push_back(format_seconds(Seconds(step)));
    row.push_back(c["workers"].empty() ? "-" : format_percent(mean_idle(c)));
    row.push_back(fmt::format("{:.2f}", mean_staleness(c)));
    row.push_back(std::isfinite(last) ? fmt::format("{:.4f}", last) : "diverged");
    table.row(row);
  }
  return table.text();
}

Json json_of(const std::vector<Json>& curves, double target) {
  return {{"schema", "orrery.race/1"}, {"target_loss", target}, {"algorithms", curves}};
}

void write_race(const std::string& folder, const std::vector<Json>& curves, double target) {
  make_result_folder(folder);
  const std::filesystem::path out(folder);
  write_file_atomically((out / "race.json").string(), json_of(curves, target).dump(2) + "\n");
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
  const std::vector<std::string> seeds =
      split(arguments.seed, ',');  // one, "", where none is given
  base.seed = seeds.front();
  base.positional = {arguments.scenario.empty() ? "scenarios/race.yaml" : arguments.scenario};
  const Scenario scenario = read_scenario(base);
  if (scenario.run.values != RunValues::real && scenario.twin == nullptr)
    throw Error(Category::config, "a race needs losses: set value_model or run.values")
        .with("scenario", scenario.file);
  std::vector<Work> work;
  for (const std::string& given : arguments.positional)
    for (const std::string& seed : seeds)
      work.push_back(
          [&base, runner = Runner{given, seed}, settings = settings_of(given, scenario)] {
            return simulated(base, runner, settings);
          });
  std::vector<Json> curves(work.size());
  ProgressLine line(std::cerr, stderr_progress(arguments.quiet));
  std::size_t done = 0;
  run_in_children(work, usable_cores(), [&](std::size_t i, const ChildResult& result) {
    if (!result.error.empty()) throw Error(result.category, result.error);
    curves[i] = Json::parse(result.text);
    judge(curves[i], *arguments.target_loss);
    ++done;
    line.update([&] { return fmt::format("{} of {} simulations", done, work.size()); });
  });
  line.clear();
  if (!arguments.out.empty()) write_race(arguments.out, curves, *arguments.target_loss);
  if (arguments.json)
    fmt::print("{}\n", json_of(curves, *arguments.target_loss).dump(2));
  else
    fmt::print("{}\n{}", heading(subject_of(scenario), false),
               table_of(curves, *arguments.target_loss));
  return 0;
}

}  // namespace orrery::cli
