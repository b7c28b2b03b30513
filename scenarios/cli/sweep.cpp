// `orrery sweep`: one scenario at every combination of some fields' values.
#include <fmt/core.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "backend/core/progress.hpp"
#include "backend/core/sha256.hpp"
#include "backend/core/table.hpp"
#include "backend/core/text.hpp"
#include "scenarios/cli/children.hpp"
#include "scenarios/cli/interrupt.hpp"
#include "scenarios/cli/simulation.hpp"
#include "scenarios/cli/sweep_points.hpp"
#include "scenarios/cli/sweep_store.hpp"
#include "scenarios/cli/variants.hpp"
#include "scenarios/cli/version.hpp"

namespace orrery::cli {

namespace {

using Json = nlohmann::ordered_json;

struct Point {
  std::size_t number = 0;
  std::vector<std::string> settings;  // "path=value", those of the axes
  std::string key;
  std::optional<StoredPoint> result;
};

// As `simulate` would have ended.
StoredPoint simulated(Arguments arguments, const std::vector<std::string>& settings) {
  arguments.set.insert(arguments.set.end(), settings.begin(), settings.end());
  arguments.quiet = true;
  try {
    return {0, to_json(simulate_with_variants(read_scenario(arguments), arguments, "").result)};
  } catch (const Error& error) {
    if (error.category() == Category::internal) throw;
    return {exit_code(error.category()), error_json(error)};
  }
}

std::vector<Point> make_points(const Arguments& arguments) {
  std::vector<SweepAxis> axes;
  for (const std::string& text : arguments.over) axes.push_back(parse_axis(text));
  Json common = {{"version", version()},
                 {"build", build()},
                 {"scenario", read_file(arguments.positional.at(0))},
                 {"set", arguments.set},
                 {"seed", arguments.seed}};
  std::vector<Point> points;
  for (std::vector<std::string>& settings : sweep_points(axes)) {
    common["point"] = settings;
    const std::string key = sha256_hex(common.dump(-1, ' ', false, Json::error_handler_t::replace));
    points.push_back({points.size(), std::move(settings), key, {}});
  }
  return points;
}

// Fills in what is on disk. True when that is everything.
bool take_stored(const SweepStore& store, std::vector<Point>& points) {
  const std::map<std::string, StoredPoint> stored = store.all();
  bool whole = true;
  for (Point& point : points) {
    const auto found = stored.find(point.key);
    if (found != stored.end()) point.result = found->second;
    whole = whole && point.result;
  }
  return whole;
}

// Simulates this part's points that have no result yet. What ended without one is noted on stderr;
// true when there was no such.
bool simulate_missing(const Arguments& arguments, const SweepPart& part, SweepStore* store,
                      std::vector<Point>& points) {
  std::vector<Point*> missing;
  std::vector<Work> work;
  for (Point& point : points) {
    if (point.number % part.of != part.index || point.result) continue;
    missing.push_back(&point);
    work.push_back([&arguments, &point] {
      const StoredPoint done = simulated(arguments, point.settings);
      return fmt::format("{} {}", done.exit_code, done.json);
    });
  }
  ProgressLine line(std::cerr, stderr_progress(arguments.quiet));
  std::size_t done = 0, failed = 0;
  const auto show = [&] {
    line.update([&] { return fmt::format("simulated {} of {} points", done, missing.size()); });
  };
  show();
  const auto jobs = static_cast<std::size_t>(arguments.jobs);
  run_in_children(
      work, jobs > 0 ? jobs : usable_cores(), [&](std::size_t index, const ChildResult& child) {
        Point& point = *missing[index];
        ++done;
        if (child.error.empty()) {
          const std::size_t space = child.text.find(' ');
          point.result = {std::atoi(child.text.c_str()), child.text.substr(space + 1)};
          if (store != nullptr) store->add(point.key, *point.result);
        } else {
          ++failed;
          line.note(fmt::format("no result for {}: {}", join(point.settings, " "), child.error));
        }
        show();
      });
  return failed == 0;
}

// A result or an error object with the number and the settings of its point.
Json json_of(const Point& point) {
  Json j;
  Json result = Json::parse(point.result->json);
  j["schema"] = result["schema"];
  j["point"] = point.number;
  j["settings"] = Json::object();
  for (const std::string& setting : point.settings) {
    const std::size_t equals = setting.find('=');
    j["settings"][setting.substr(0, equals)] = setting.substr(equals + 1);
  }
  j.update(result);
  return j;
}

std::string lines_of(const std::vector<Point>& points) {
  std::string lines;
  for (const Point& point : points)
    if (point.result) lines += json_of(point).dump() + "\n";
  return lines;
}

// Why there is no figure: what went wrong, and its first message in at most a line.
std::string reason(const Json& j) {
  const Json& error = j["error"];
  std::string text = error["messages"].empty() ? "" : error["messages"][0]["text"];
  constexpr std::size_t most = 70;
  text = text.substr(0, text.find('\n'));
  const std::string intro = "error[" + error["category"].get<std::string>() + "]: ";
  if (text.starts_with(intro)) text = text.substr(intro.size());
  if (code_points(text) > most) {
    text.resize(most);
    while (invalid_utf8(text) != std::string::npos) text.pop_back();
    text += "…";
  }
  return error["category"].get<std::string>() + ": " + text;
}

std::string table_of(const std::vector<Point>& points) {
  TextTable table;
  for (const std::string& setting : points.front().settings) {
    const std::string path = setting.substr(0, setting.find('='));
    table.column(path.substr(path.rfind('.') + 1));
  }
  table.column("step").column("MFU").column("tokens/s").column("memory").left("");
  for (const Point& point : points) {
    if (!point.result) continue;
    std::vector<std::string> cells;
    for (const std::string& setting : point.settings)
      cells.push_back(setting.substr(setting.find('=') + 1));
    const Json j = Json::parse(point.result->json);
    if (point.result->exit_code == 0) {
      const Json &step = j["step_time_s"], &mfu = j["mfu"];
      cells.push_back(step.is_number() ? format_seconds(Seconds(step.get<double>())) : "-");
      cells.push_back(mfu.is_number() ? format_percent(mfu.get<double>()) : "-");
      cells.push_back(format_count(j["tokens_per_s"].get<double>()));
      cells.push_back(format_bytes(Bytes(j["memory"]["peak_bytes"].get<std::int64_t>())));
      cells.emplace_back("");
    } else {
      cells.insert(cells.end(), {"-", "-", "-", "-", reason(j)});
    }
    table.row(std::move(cells));
  }
  return table.text();
}

// A sweep of which every point is an invalid scenario was asked for wrongly.
void refuse_if_all_invalid(const Arguments& arguments, const std::vector<Point>& points) {
  for (const Point& point : points)
    if (!point.result || point.result->exit_code != exit_code(Category::config)) return;
  Arguments first = arguments;
  first.set.insert(first.set.end(), points.front().settings.begin(), points.front().settings.end());
  (void)read_scenario(first);
}

}  // namespace

int sweep(const Arguments& arguments) {
  const SweepPart part =
      sweep_part(arguments.part, [](const char* name) -> const char* { return std::getenv(name); });
  if (part.of > 1 && arguments.out.empty())
    throw Error(Category::usage, "a sweep in several parts needs --out, where they meet");
  std::vector<Point> points = make_points(arguments);
  std::optional<SweepStore> store;
  if (!arguments.out.empty()) {
    store.emplace(arguments.out, part);
    take_stored(*store, points);
  }
  const bool all_ended = simulate_missing(arguments, part, store ? &*store : nullptr, points);
  if (!all_ended) return exit_code(Category::internal);
  if (store && !take_stored(*store, points)) {
    if (!arguments.quiet)
      fmt::print(stderr, "part {} of {} is done; others are not yet\n", part.index + 1, part.of);
    return 0;
  }
  refuse_if_all_invalid(arguments, points);
  const InterruptGuard guard;
  const std::string lines = lines_of(points);
  if (store)
    write_file_atomically((std::filesystem::path(arguments.out) / "results.jsonl").string(), lines);
  fmt::print("{}", arguments.json ? lines : table_of(points));
  if (std::fflush(stdout) == 0) result_was_printed();
  return 0;
}

}  // namespace orrery::cli
