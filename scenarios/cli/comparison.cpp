#include "scenarios/cli/comparison.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>

#include "backend/core/progress.hpp"
#include "backend/core/table.hpp"
#include "scenarios/cli/page.hpp"
#include "scenarios/cli/work_comparison.hpp"

namespace orrery::cli {

namespace {

using Json = nlohmann::ordered_json;

std::optional<double> number(const Json& value) {
  return value.is_number() ? std::optional(value.get<double>()) : std::nullopt;
}

Json or_null(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

std::optional<double> difference(const std::optional<double>& simulated,
                                 const std::optional<double>& measured) {
  if (!simulated || !measured) return std::nullopt;
  if (*simulated == *measured) return 0;
  if (*measured == 0) return std::nullopt;
  return *simulated / *measured - 1;
}

// A figure that is compared: how it is called in `difference` and in the table.
struct Phase {
  const char* key;
  const char* label;
  std::function<std::optional<double>(const Json& result)> of;
  bool seconds = true;
};

const std::vector<Phase>& phases() {
  const auto time = [](const char* part) {
    return [part](const Json& r) { return number(r.at("time").at(part)); };
  };
  static const std::vector<Phase> table{
      {"step", "step", [](const Json& r) { return number(r.at("step_time_s")); }},
      {"compute", "compute", time("compute_s")},
      {"exposed", "exposed communication", time("exposed_communication_s")},
      {"bubble", "pipeline bubble", time("bubble_s")},
      {"overhead", "host overhead", time("overhead_s")},
      {"idle", "idle", time("idle_s")},
      {"communication", "all communication",
       [](const Json& r) {
         double sum = 0;
         for (const Json& row : r.at("communication")) sum += row.at("time_s").get<double>();
         return std::optional(sum);
       }},
      {"memory", "memory at its peak",
       [](const Json& r) { return number(r.at("memory").at("peak_bytes")); }, false}};
  return table;
}

// Unknown when one of them computed no values, or diverged: null stands for what is no number.
std::optional<double> loss_difference(const Json& simulated, const Json& measured) {
  for (const Json* losses : {&simulated.at("loss"), &measured.at("loss")})
    if (!std::all_of(losses->begin(), losses->end(), [](const Json& l) { return l.is_number(); }))
      return std::nullopt;
  const auto a = simulated.at("loss").get<std::vector<double>>();
  const auto b = measured.at("loss").get<std::vector<double>>();
  if (a.empty() || a.size() != b.size()) return std::nullopt;
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double here = a[i] == b[i] ? 0 : a[i] / b[i] - 1;
    if (std::isnan(here) || std::abs(here) > std::abs(largest)) largest = here;
  }
  return largest;
}

std::string percent(const std::optional<double>& fraction) {
  return fraction ? fmt::format("{:+.1f} %", 100 * *fraction) : "-";
}

std::string text_of(const Phase& phase, const std::optional<double>& value) {
  if (!value) return "-";
  return phase.seconds ? format_seconds(Seconds(*value))
                       : format_bytes(Bytes(static_cast<std::int64_t>(*value)));
}

struct Spread {
  std::optional<double> low, high;
};

Spread spread_of(const Phase& phase, const std::vector<Json>& repeats) {
  Spread spread;
  for (const Json& result : repeats) {
    const auto value = phase.of(result);
    if (!value) continue;
    spread.low = std::min(spread.low.value_or(*value), *value);
    spread.high = std::max(spread.high.value_or(*value), *value);
  }
  return spread;
}

std::vector<Json> results_of(const std::vector<Repeat>& repeats) {
  std::vector<Json> all;
  for (const Repeat& repeat : repeats) all.push_back(Json::parse(repeat.result));
  return all;
}

std::optional<double> resident_difference(const Repeat& repeat) {
  if (repeat.resident_growth <= 0) return std::nullopt;
  return difference(static_cast<double>(repeat.ledger_bytes),
                    static_cast<double>(repeat.resident_growth));
}

Json rows_json(const std::vector<WorkDifference>& rows) {
  Json j = Json::object();
  for (const WorkDifference& row : rows)
    j[row.name] = {{"simulated_s", or_null(row.simulated_s)},
                   {"measured_s", or_null(row.measured_s)},
                   {"difference", or_null(row.difference())}};
  return j;
}

void add_rows(TextTable& table, const std::vector<WorkDifference>& rows) {
  const auto text = [](const std::optional<double>& s) {
    return s ? format_seconds(Seconds(*s)) : "-";
  };
  for (const WorkDifference& row : rows)
    table.row({row.name, text(row.simulated_s), text(row.measured_s), percent(row.difference())});
}

std::string work_table(const WorkComparison& work) {
  TextTable table;
  table.left("computing, per step").column("simulated").column("measured").column("difference");
  add_rows(table, work.phases);
  table.rule();
  add_rows(table, work.classes);
  return table.text();
}

// The ledgers of all ranks beside CUDA's own pools; null in a world that has none.
Json pool_json(const Json& measured, std::int64_t ledger_bytes) {
  const Json& memory = measured.at("memory");
  const auto pool = memory.find("pool");
  if (pool == memory.end()) return nullptr;
  const double used = pool->at("used_bytes").get<double>();
  return {{"ledger_bytes", ledger_bytes},
          {"used_bytes", pool->at("used_bytes")},
          {"reserved_bytes", pool->at("reserved_bytes")},
          {"difference", or_null(difference(static_cast<double>(ledger_bytes), used))}};
}

Json provenance_json(const Provenance& p) {
  const auto known = [](const std::string& text) {
    return text.empty() ? Json(nullptr) : Json(text);
  };
  return {{"date", known(p.date)},
          {"command", known(p.command)},
          {"device", known(p.device)},
          {"driver", known(p.driver)}};
}

}  // namespace

std::string to_text(const Repeat& repeat) {
  return Json{{"result", repeat.result},
              {"median_step_s", repeat.median_step_s},
              {"ledger_bytes", repeat.ledger_bytes},
              {"resident_growth", repeat.resident_growth},
              {"device_bytes", repeat.device_bytes}}
      .dump();
}

Repeat repeat_from_text(const std::string& text) {
  const Json j = Json::parse(text);
  return {j.at("result"), j.at("median_step_s"), j.at("ledger_bytes"), j.at("resident_growth"),
          j.at("device_bytes")};
}

Repeat repeat_of(const RunReport& report, const Result& result, std::int64_t resident_growth) {
  Repeat repeat{to_json(result), 0, 0, resident_growth};
  for (const RankReport& rank : report.ranks) {
    const Bytes reserve = rank.peak_by_label[static_cast<std::size_t>(Label::reserve)];
    repeat.device_bytes += (rank.peak - reserve).value;
    repeat.ledger_bytes += (rank.peak - reserve).value + rank.host_peak.value;
    std::vector<double> steps;
    for (std::size_t i = 1; i < rank.steps.size(); ++i)
      steps.push_back((rank.steps[i].at - rank.steps[i - 1].at).seconds().value);
    if (steps.empty() && !rank.steps.empty()) steps.push_back(rank.steps[0].at.seconds().value);
    if (steps.empty()) continue;
    std::sort(steps.begin(), steps.end());
    const double median = (steps[(steps.size() - 1) / 2] + steps[steps.size() / 2]) / 2;
    repeat.median_step_s = std::max(repeat.median_step_s, median);
  }
  return repeat;
}

Comparison::Comparison(std::string simulated, std::vector<Repeat> repeats,
                       std::optional<double> tolerance)
    : simulated_(std::move(simulated)), repeats_(std::move(repeats)), tolerance_(tolerance) {
  ORRERY_ASSERT(!repeats_.empty(), "a comparison with no run");
  const std::vector<Json> results = results_of(repeats_);
  std::vector<std::size_t> order(repeats_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return number(results[a]["step_time_s"]).value_or(0) <
           number(results[b]["step_time_s"]).value_or(0);
  });
  median_ = order[(order.size() - 1) / 2];
}

std::optional<double> Comparison::step_difference() const {
  const Phase& step = phases().front();
  return difference(step.of(Json::parse(simulated_)),
                    step.of(Json::parse(repeats_[median_].result)));
}

bool Comparison::within_tolerance() const {
  const auto step = step_difference();
  return !tolerance_ || (step && std::abs(*step) <= *tolerance_);
}

std::string Comparison::to_json() const {
  const Json simulated = Json::parse(simulated_);
  const std::vector<Json> results = results_of(repeats_);
  const Json& measured = results[median_];
  const Repeat& median = repeats_[median_];
  Json differences = Json::object(), steps = Json::array(), spreads = Json::object();
  for (const Phase& phase : phases()) {
    differences[phase.key] = or_null(difference(phase.of(simulated), phase.of(measured)));
    const Spread spread = spread_of(phase, results);
    spreads[phase.key] = {{"low", or_null(spread.low)}, {"high", or_null(spread.high)}};
  }
  differences["loss"] = or_null(loss_difference(simulated, measured));
  for (const Json& result : results) steps.push_back(result["step_time_s"]);
  Json j;
  j["schema"] = "orrery.validation/1";
  j["simulated"] = simulated;
  j["measured"] = measured;
  j["difference"] = differences;
  j["repeats"] = {{"count", repeats_.size()},
                  {"step_time_s", steps},
                  {"median_step_s", median.median_step_s},
                  {"spread", spreads}};
  j["resident"] = {
      {"ledger_bytes", median.ledger_bytes},
      {"growth_bytes", median.resident_growth > 0 ? Json(median.resident_growth) : Json(nullptr)},
      {"difference", or_null(resident_difference(median))}};
  j["pool"] = pool_json(measured, median.device_bytes);
  const WorkComparison work = compare_work(simulated_, median.result, profile_);
  j["work"] = {{"phases", rows_json(work.phases)},
               {"classes", rows_json(work.classes)},
               {"profile", profile_.empty() ? Json(nullptr) : Json::parse(profile_)}};
  j["provenance"] = provenance_json(provenance_);
  j["tolerance"] =
      tolerance_ ? Json{{"limit", *tolerance_}, {"within", within_tolerance()}} : Json(nullptr);
  return j.dump(2) + "\n";
}

std::string Comparison::to_page(const Subject& subject) const {
  PageResult measured{"measured", repeats_[median_].result, {}, profile_};
  for (const Repeat& repeat : repeats_) measured.repeats.push_back(repeat.result);
  return to_html({fmt::format("{}: measured and simulated", subject.scenario),
                  {std::move(measured), {"simulated", simulated_}},
                  provenance_});
}

std::string Comparison::to_table(const Subject& subject, bool color) const {
  const Json simulated = Json::parse(simulated_);
  const std::vector<Json> results = results_of(repeats_);
  const Json& measured = results[median_];
  const Repeat& median = repeats_[median_];
  TextTable table;
  table.left("per step")
      .column("simulated")
      .column("measured")
      .column("difference")
      .column(fmt::format("{} repeats", results.size()), "low to high");
  for (const Phase& phase : phases()) {
    const auto a = phase.of(simulated), b = phase.of(measured);
    const Spread spread = spread_of(phase, results);
    table.row({phase.label, text_of(phase, a), text_of(phase, b), percent(difference(a, b)),
               text_of(phase, spread.low) + " to " + text_of(phase, spread.high)});
    if (std::string(phase.key) == "idle") table.rule();
  }
  std::string out = heading(subject, color) + "\n" + table.text() + "\n";
  out += work_table(compare_work(simulated_, median.result, profile_)) + "\n";
  if (const auto loss = loss_difference(simulated, measured))
    out += *loss == 0 ? fmt::format("loss        equal in every bit in all {} steps\n",
                                    measured["loss"].size())
                      : fmt::format("loss        differs by up to {:+.2e}\n", *loss);
  const auto low = number(simulated["step_time_low_s"]),
             high = number(simulated["step_time_high_s"]);
  const auto step = number(measured["step_time_s"]);
  if (low && high && step)
    out += fmt::format("forecast    {} to {}: the measured step is {} it\n",
                       format_seconds(Seconds(*low)), format_seconds(Seconds(*high)),
                       *step >= *low && *step <= *high ? "inside" : "outside");
  out += fmt::format("median step {} (measured)\n", format_seconds(Seconds(median.median_step_s)));
  if (median.resident_growth > 0)
    out += fmt::format("resident    {} more than before the run; all ranks' tensors take {}\n",
                       format_bytes(Bytes(median.resident_growth)),
                       format_bytes(Bytes(median.ledger_bytes)));
  if (const Json pool = pool_json(measured, median.device_bytes); !pool.is_null())
    out += fmt::format(
        "pool        {} in use at most, {} reserved; all ranks' tensors take {} by the ledger\n",
        format_bytes(Bytes(pool["used_bytes"].get<std::int64_t>())),
        format_bytes(Bytes(pool["reserved_bytes"].get<std::int64_t>())),
        format_bytes(Bytes(median.device_bytes)));
  return out;
}

}  // namespace orrery::cli
