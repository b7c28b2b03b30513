#include "scenarios/cli/page.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>

#include "backend/core/table.hpp"
#include "scenarios/cli/bar_chart.hpp"
#include "scenarios/cli/page_tables.hpp"
#include "scenarios/cli/svg.hpp"
#include "scenarios/cli/work_comparison.hpp"

namespace orrery::cli {

namespace {

using Json = nlohmann::ordered_json;
using Pointer = Json::json_pointer;

constexpr const char* style = R"(
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --line: #ddd; --dim: #666; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ddd; --paper: #181a1b; --line: #3a3d3f; --dim: #999; }
}
body { margin: 2rem auto; padding: 0 1rem; max-width: 60rem; background: var(--paper);
       color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.5rem; }
p.note, caption { color: var(--dim); text-align: left; }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; } svg text { fill: var(--ink); }
svg .spread { stroke: var(--ink); stroke-width: 2; fill: none; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .2rem .6rem .2rem 0; text-align: left;
         vertical-align: top; }
td.number, th.number { text-align: right; }
code { overflow-wrap: anywhere; }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .4em 0 1em; }
)";

Pointer pointer_to(const std::string& path) { return Pointer("/" + path); }

std::optional<double> number_at(const Json& result, const std::string& path) {
  const Pointer at = pointer_to(path);
  if (!result.contains(at) || !result.at(at).is_number()) return std::nullopt;
  return result.at(at).get<double>();
}

// A result as it is drawn.
struct Drawn {
  std::string name;
  Json json;
  std::vector<Json> repeats;

  Bar bar(const std::function<std::optional<double>(const Json&)>& of) const {
    Bar drawn{of(json), std::nullopt, std::nullopt};
    for (const Json& repeat : repeats)
      if (const auto value = of(repeat)) {
        drawn.low = std::min(drawn.low.value_or(*value), *value);
        drawn.high = std::max(drawn.high.value_or(*value), *value);
      }
    return drawn;
  }
};

// Of the first result that knows it.
double first_known(const BarRow& row) {
  for (const Bar& bar : row.bars)
    if (bar.value) return *bar.value;
  return 0;
}

std::string seconds_text(double s) { return format_seconds(Seconds(s)); }
std::string bytes_text(double bytes) { return format_bytes(Bytes(std::llround(bytes))); }

class PageWriter {
 public:
  explicit PageWriter(const Page& page) : page_(page) {
    for (const PageResult& result : page.results) {
      Drawn drawn{result.name, Json::parse(result.json), {}};
      for (const std::string& repeat : result.repeats) drawn.repeats.push_back(Json::parse(repeat));
      drawn_.push_back(std::move(drawn));
    }
  }

  std::string text() const {
    return "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n" + head() +
           "<body>\n" + heading() + step() + phases() + classes() + memory() + tables() +
           "</body>\n</html>\n";
  }

 private:
  std::string head() const {
    std::string colours;
    for (std::size_t i = 0; i < series_colours.size(); ++i)
      colours += fmt::format(".c{0} {{ fill: {1}; background: {1}; }}\n", i, series_colours[i]);
    return fmt::format(
        "<head>\n<meta charset=\"utf-8\"/>\n<meta name=\"viewport\" "
        "content=\"width=device-width\"/>\n<title>{}</title>\n<style>{}{}</style>\n</head>\n",
        escape_xml(page_.title), style, colours);
  }

  std::string heading() const {
    std::string out = "<h1>" + escape_xml(page_.title) + "</h1>\n<p>";
    for (std::size_t i = 0; i < drawn_.size(); ++i)
      out += fmt::format("<span class=\"key c{}\"></span>{}", i % series_colours.size(),
                         escape_xml(drawn_[i].name));
    out += "</p>\n";
    return out + facts_table(page_.results, page_.provenance);
  }

  std::string chart(BarChart chart, const std::string& note) const {
    const auto empty = [](const BarRow& row) {
      return std::all_of(row.bars.begin(), row.bars.end(),
                         [](const Bar& bar) { return bar.value.value_or(0) == 0; });
    };
    auto& rows = chart.rows;
    rows.erase(std::remove_if(rows.begin(), rows.end(), empty), rows.end());
    if (rows.empty()) return "";
    for (const Drawn& drawn : drawn_) chart.results.push_back(drawn.name);
    std::string out = "<h2>" + escape_xml(chart.title) + "</h2>\n";
    if (!note.empty()) out += "<p class=\"note\">" + escape_xml(note) + "</p>\n";
    return out + to_svg(chart);
  }

  // Of the figure at `path`, such as "time/compute_s".
  BarRow row(const std::string& path, const std::string& label) const {
    BarRow made{path, label, {}};
    for (const Drawn& drawn : drawn_)
      made.bars.push_back(drawn.bar([&](const Json& result) { return number_at(result, path); }));
    return made;
  }

  std::string step() const {
    BarChart parts{"Step time and where it goes", {}, {}, seconds_text};
    for (const auto& [pointer, label] : {std::pair{"step_time_s", "step"},
                                         {"time/compute_s", "compute"},
                                         {"time/exposed_communication_s", "exposed communication"},
                                         {"time/bubble_s", "pipeline bubble"},
                                         {"time/overhead_s", "host overhead"},
                                         {"time/idle_s", "idle"}})
      parts.rows.push_back(row(pointer, label));
    return chart(std::move(parts), repeats_note());
  }

  std::string repeats_note() const {
    for (const Drawn& drawn : drawn_)
      if (drawn.repeats.size() > 1)
        return fmt::format("{}: the median of {} runs; strokes are from the least to the most.",
                           drawn.name, drawn.repeats.size());
    return "";
  }

  std::string phases() const {
    BarChart phases{"Computing, by phase", {}, {}, seconds_text};
    for (const char* phase : {"forward", "backward", "optimizer", "other"})
      phases.rows.push_back(row(std::string("work/phases_s/") + phase, phase));
    return chart(std::move(phases), "On the compute stream of the slowest rank, per step.");
  }

  // The GPU's own times where CUPTI told them, else those between events.
  std::string classes() const {
    BarChart classes{"Computing, by kind of kernel", {}, {}, seconds_text};
    for (int i = 0; i < work_class_count; ++i) {
      const char* kind = name(static_cast<WorkClass>(i));
      classes.rows.push_back({kind, kind, {}});
    }
    std::string note;
    for (const PageResult& result : page_.results) {
      const std::string& by_kernel = result.profile.empty() ? result.json : result.profile;
      const auto times = class_times(by_kernel);
      for (std::size_t i = 0; i < work_class_count; ++i)
        classes.rows[i].bars.push_back({times[i], std::nullopt, std::nullopt});
      if (Json::parse(by_kernel).contains(pointer_to("work/native")))
        note = result.name + ": kernels' own times on the GPU, by CUPTI.";
    }
    std::stable_sort(
        classes.rows.begin(), classes.rows.end(),
        [](const BarRow& a, const BarRow& b) { return first_known(a) > first_known(b); });
    return chart(std::move(classes), note);
  }

  std::string memory() const {
    BarChart memory{"Memory at its peak", {}, {}, bytes_text};
    memory.rows.push_back(row("memory/peak_bytes", "peak, by the ledger"));
    for (const char* label : {"parameters", "gradients", "optimizer", "activations",
                              "communication", "workspace", "reserve"})
      memory.rows.push_back(row(std::string("memory/by_label/") + label, label));
    memory.rows.push_back(row("memory/pool/used_bytes", "CUDA's pool, in use"));
    memory.rows.push_back(row("memory/pool/reserved_bytes", "CUDA's pool, reserved"));
    return chart(std::move(memory),
                 "By the ledger: of the rank with the largest peak. CUDA's pools: of all GPUs.");
  }

  std::string tables() const {
    const auto& results = page_.results;
    return communication_table(results) + kernels_table(results) + functions_table(results) +
           assumptions_table(results);
  }

  const Page& page_;
  std::vector<Drawn> drawn_;
};

}  // namespace

std::string to_html(const Page& page) { return PageWriter(page).text(); }

}  // namespace orrery::cli
