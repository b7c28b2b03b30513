// `orrery compare`: saved results side by side.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "backend/core/progress.hpp"
#include "backend/core/table.hpp"
#include "backend/core/text.hpp"
#include "backend/ledger.hpp"
#include "scenarios/cli/command.hpp"
#include "scenarios/cli/page.hpp"
#include "scenarios/cli/saved_result.hpp"

namespace orrery::cli {

namespace {

using Json = nlohmann::ordered_json;

// A figure of all results, in their order.
struct Row {
  std::string name;  // its path in a result
  std::string label;
  std::string (*text)(double);
  std::vector<std::optional<double>> values;

  // Of a later result to the first; empty where either is unknown or the first is zero.
  std::optional<double> difference(std::size_t result) const {
    const std::optional<double>&first = values.front(), &here = values[result];
    if (result == 0 || !first || !here || *first == 0) return std::nullopt;
    return *here / *first - 1;
  }
  bool known() const {
    return std::any_of(values.begin(), values.end(), [](const auto& v) { return v.has_value(); });
  }
};

std::string seconds_text(double s) { return format_seconds(Seconds(s)); }
std::string percent_text(double part) { return format_percent(part); }
std::string count_text(double number) { return format_count(number); }
std::string bytes_text(double bytes) { return format_bytes(Bytes(std::llround(bytes))); }
std::string loss_text(double loss) { return fmt::format("{:.4f}", loss); }

std::vector<Row> rows_of(const std::vector<SavedResult>& results) {
  std::vector<Row> rows;
  const auto add = [&](const char* name, const char* label, std::string (*text)(double),
                       auto value_of) {
    Row row{name, label, text, {}};
    for (const SavedResult& r : results) row.values.push_back(value_of(r));
    if (row.known()) rows.push_back(std::move(row));
  };
  using R = const SavedResult&;
  add("step_time_s", "step time", seconds_text, [](R r) { return r.step_time_s; });
  add("mfu", "MFU", percent_text, [](R r) { return r.mfu; });
  add("hfu", "HFU", percent_text, [](R r) { return r.hfu; });
  add("tokens_per_s", "tokens/s", count_text, [](R r) { return r.tokens_per_s; });
  add("time.compute_s", "compute", seconds_text, [](R r) { return r.time.compute_s; });
  add("time.exposed_communication_s", "exposed communication", seconds_text,
      [](R r) { return r.time.exposed_communication_s; });
  add("time.bubble_s", "pipeline bubble", seconds_text, [](R r) { return r.time.bubble_s; });
  add("time.overhead_s", "host overhead", seconds_text, [](R r) { return r.time.overhead_s; });
  add("time.idle_s", "idle", seconds_text, [](R r) { return r.time.idle_s; });
  add("memory.peak_bytes", "memory peak", bytes_text, [](R r) { return r.memory.peak_bytes; });
  for (int i = 0; i < label_count; ++i) {
    const std::string label = name(static_cast<Label>(i));
    add(("memory.by_label." + label).c_str(), ("  " + label).c_str(), bytes_text, [&label](R r) {
      const auto found = r.memory.by_label.find(label);
      return found == r.memory.by_label.end() ? std::nullopt : std::optional(found->second);
    });
    const auto zero = [](const std::optional<double>& v) { return !v || *v == 0; };
    if (!rows.empty() && rows.back().name == "memory.by_label." + label &&
        std::all_of(rows.back().values.begin(), rows.back().values.end(), zero))
      rows.pop_back();  // nobody holds any
  }
  add("loss", "loss at the end", loss_text,
      [](R r) { return r.loss.empty() ? std::nullopt : std::optional(r.loss.back()); });
  add("loss_held_out", "loss on held-out text", loss_text, [](R r) { return r.loss_held_out; });
  return rows;
}

std::string table_of(const std::vector<SavedResult>& results, bool color) {
  std::string out;
  TextTable table;
  table.left("figure");
  for (std::size_t i = 0; i < results.size(); ++i) {
    const SavedResult& r = results[i];
    out += fmt::format("{}  {}: {}, {}, world {}{}\n",
                       styled(fmt::format("[{}]", i + 1), Style::bold, color), r.file, r.scenario,
                       r.algorithm, r.world, r.cluster ? ", " + *r.cluster : "");
    table.column(fmt::format("[{}]", i + 1));
    if (i > 0) table.column("to [1]");
  }
  for (const Row& row : rows_of(results)) {
    std::vector<std::string> cells{row.label};
    for (std::size_t i = 0; i < results.size(); ++i) {
      cells.push_back(row.values[i] ? row.text(*row.values[i]) : "-");
      if (i == 0) continue;
      const std::optional<double> difference = row.difference(i);
      cells.push_back(difference ? format_signed_percent(*difference) : "-");
    }
    table.row(std::move(cells));
  }
  return out + "\n" + table.text();
}

std::string json_of(const std::vector<SavedResult>& results) {
  const auto or_null = [](const std::optional<double>& v) { return v ? Json(*v) : Json(nullptr); };
  Json j;
  j["schema"] = "orrery.compare/1";
  j["results"] = Json::array();
  for (const SavedResult& r : results)
    j["results"].push_back({{"file", r.file},
                            {"scenario", r.scenario},
                            {"algorithm", r.algorithm},
                            {"world", r.world},
                            {"cluster", r.cluster ? Json(*r.cluster) : Json(nullptr)}});
  j["figures"] = Json::array();
  for (const Row& row : rows_of(results)) {
    Json values = Json::array(), differences = Json::array();
    for (std::size_t i = 0; i < results.size(); ++i) {
      values.push_back(or_null(row.values[i]));
      differences.push_back(or_null(row.difference(i)));
    }
    j["figures"].push_back({{"name", row.name}, {"values", values}, {"difference", differences}});
  }
  return j.dump(2) + "\n";
}

// A page needs more of a result than a table does, and JSON where a table takes YAML.
void check_makes_page(const SavedResult& result) {
  try {
    to_html({"", {{result.file, result.text}}, {}});
  } catch (const Json::exception& error) {
    throw Error(Category::config,
                "no page can be made of this result: it is not as --json prints it")
        .with("file", result.file)
        .with("reason", error.what());
  }
}

std::string page_of(const std::vector<SavedResult>& results) {
  Page page{"Results side by side", {}, {}};
  for (const SavedResult& result : results) {
    check_makes_page(result);
    page.results.push_back({result.file, result.text});
  }
  return to_html(page);
}

}  // namespace

int compare(const Arguments& arguments) {
  if (arguments.positional.size() < 2)
    throw Error(Category::usage, "compare takes at least two results");
  std::vector<SavedResult> results;
  std::vector<ConfigMessage> wrong;
  for (const std::string& path : arguments.positional) {
    try {
      results.push_back(read_saved_result(path));
    } catch (const ConfigError& error) {
      wrong.insert(wrong.end(), error.messages.begin(), error.messages.end());
    }
  }
  if (!wrong.empty()) throw ConfigError(std::move(wrong));
  if (!arguments.page.empty()) write_file_atomically(arguments.page, page_of(results));
  fmt::print("{}", arguments.json ? json_of(results)
                                  : table_of(results, use_color(arguments.color, is_terminal(1))));
  return 0;
}

}  // namespace orrery::cli
