#include "scenarios/cli/scoreboard_report.hpp"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "backend/core/progress.hpp"
#include "backend/core/table.hpp"

namespace orrery::cli {

namespace {

using Json = nlohmann::ordered_json;

Json or_null(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

std::string percent(const std::optional<double>& fraction) {
  return fraction ? fmt::format("{:.1f}", 100 * *fraction) : "-";
}

std::string signed_percent(const std::optional<double>& fraction) {
  return fraction ? fmt::format("{:+.1f}", 100 * *fraction) : "-";
}

Json case_json(const ScoredCase& c) {
  Json notes = Json::array();
  for (const Assumption& a : c.assumptions)
    notes.push_back({{"path", a.path}, {"value", a.value}, {"reason", a.reason}});
  return {{"id", c.id},
          {"file", c.file},
          {"kind", c.kind},
          {"unit", c.unit.empty() ? Json(nullptr) : Json(c.unit)},
          {"measured", or_null(c.measured)},
          {"predicted", or_null(c.predicted)},
          {"error", or_null(c.error())},
          {"low", or_null(c.low)},
          {"high", or_null(c.high)},
          {"skipped", c.skipped.empty() ? Json(nullptr) : Json(c.skipped)},
          {"assumptions", std::move(notes)}};
}

Json file_json(const FileScore& f) {
  return {{"name", f.name},
          {"kind", f.kind},
          {"cases", f.cases},
          {"scored", f.scored},
          {"mean_abs_error", or_null(f.mean_abs_error)},
          {"median_abs_error", or_null(f.median_abs_error)},
          {"bias", or_null(f.bias)},
          {"max_abs_error", or_null(f.max_abs_error)},
          {"within_10", or_null(f.within_10)},
          {"band_coverage", or_null(f.band_coverage)}};
}

}  // namespace

std::string scoreboard_table(const std::vector<ScoredCase>& cases, bool color) {
  TextTable table;
  table.left("file")
      .left("kind")
      .column("cases")
      .column("scored")
      .column("median", "|error| %")
      .column("mean", "|error| %")
      .column("largest", "|error| %")
      .column("bias", "%")
      .column("within 10 %", "% of scored");
  std::size_t scored = 0;
  for (const FileScore& f : score_files(cases)) {
    scored += f.scored;
    table.row({f.name, f.kind, std::to_string(f.cases), std::to_string(f.scored),
               percent(f.median_abs_error), percent(f.mean_abs_error), percent(f.max_abs_error),
               signed_percent(f.bias), percent(f.within_10)});
  }
  std::string out = table.text();
  out +=
      fmt::format("\n{} of {} cases scored; error = predicted / measured - 1, bias = its median\n",
                  scored, cases.size());
  const std::vector<SkipReason> reasons = skip_reasons(cases);
  if (reasons.empty()) return out;
  out += "\n" + styled("not scored, because", Style::dim, color) + "\n";
  for (const SkipReason& r : reasons) out += fmt::format("{:>6}  {}\n", r.cases, r.reason);
  return out;
}

std::string scoreboard_json(const std::vector<ScoredCase>& cases) {
  Json j;
  j["schema"] = "orrery.scoreboard/1";
  j["cases"] = Json::array();
  for (const ScoredCase& c : cases) j["cases"].push_back(case_json(c));
  j["files"] = Json::array();
  for (const FileScore& f : score_files(cases)) j["files"].push_back(file_json(f));
  return j.dump(2) + "\n";
}

}  // namespace orrery::cli
