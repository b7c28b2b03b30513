#include "scenarios/cli/page_tables.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "backend/core/table.hpp"
#include "scenarios/cli/svg.hpp"

namespace orrery::cli {

namespace {

using Json = nlohmann::ordered_json;

std::string cell(const std::string& text) { return "<td>" + escape_xml(text) + "</td>"; }
std::string number_cell(const std::string& text) {
  return "<td class=\"number\">" + escape_xml(text) + "</td>";
}
std::string header(const std::string& text, bool number = false) {
  return fmt::format("<th{}>{}</th>", number ? " class=\"number\"" : "", escape_xml(text));
}

std::string table(const std::string& title, const std::string& head, const std::string& rows) {
  if (rows.empty()) return "";
  return fmt::format(
      "<h2>{}</h2>\n<table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody>\n</table>\n",
      escape_xml(title), head, rows);
}

std::string text_at(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return "";
  return found->is_string() ? found->get<std::string>() : found->dump();
}

std::string time_text(const std::optional<double>& s) {
  return s ? format_seconds(Seconds(*s)) : "-";
}

Json by_kernel(const PageResult& result) {
  return Json::parse(result.profile.empty() ? result.json : result.profile);
}

std::vector<Json> parsed(const std::vector<PageResult>& results) {
  std::vector<Json> all;
  for (const PageResult& result : results) all.push_back(Json::parse(result.json));
  return all;
}

// A row of a list, by what tells it from others, with a time of each result.
struct TimedRow {
  std::vector<std::string> key;
  std::vector<std::optional<double>> calls, time_s;
};

class TimedRows {
 public:
  explicit TimedRows(std::size_t results) : results_(results) {}
  void add(std::vector<std::string> key, std::size_t result, double calls, double time_s) {
    auto row =
        std::find_if(rows_.begin(), rows_.end(), [&](const auto& r) { return r.key == key; });
    if (row == rows_.end()) {
      rows_.push_back({std::move(key), {}, {}});
      row = rows_.end() - 1;
      row->calls.resize(results_);
      row->time_s.resize(results_);
    }
    row->calls[result] = calls;
    row->time_s[result] = time_s;
  }
  // By the time of the first result that knows it, the longest first.
  std::vector<TimedRow> sorted() const {
    std::vector<TimedRow> rows = rows_;
    const auto time = [](const TimedRow& row) {
      for (const auto& s : row.time_s)
        if (s) return *s;
      return 0.0;
    };
    std::stable_sort(rows.begin(), rows.end(),
                     [&](const TimedRow& a, const TimedRow& b) { return time(a) > time(b); });
    return rows;
  }

 private:
  std::size_t results_;
  std::vector<TimedRow> rows_;
};

// Columns "calls" and a time per result, and how far the later ones are off the first.
std::string timed_head(const std::vector<PageResult>& results) {
  std::string head = header("calls", true);
  for (std::size_t i = 0; i < results.size(); ++i) {
    head += header(results[i].name, true);
    if (i > 0) head += header("to " + results[0].name, true);
  }
  return head;
}

std::string timed_cells(const TimedRow& row) {
  std::optional<double> calls;
  for (const auto& known : row.calls)
    if (!calls) calls = known;
  std::string out = number_cell(calls ? fmt::format("{:g}", *calls) : "-");
  for (std::size_t i = 0; i < row.time_s.size(); ++i) {
    out += number_cell(time_text(row.time_s[i]));
    if (i == 0) continue;
    const auto &first = row.time_s[0], &here = row.time_s[i];
    const bool both = first && here && *first > 0;
    out += number_cell(both ? format_signed_percent(*here / *first - 1) : "-");
  }
  return out;
}

std::string timed_rows(const TimedRows& rows) {
  std::string out;
  for (const TimedRow& row : rows.sorted()) {
    out += "<tr>";
    for (const std::string& part : row.key) out += cell(part);
    out += timed_cells(row) + "</tr>\n";
  }
  return out;
}

void fact(std::string& rows, const std::string& what, const std::vector<std::string>& by_result) {
  if (std::all_of(by_result.begin(), by_result.end(), [](const auto& t) { return t.empty(); }))
    return;
  rows += "<tr>" + header(what);
  const bool alike = std::all_of(by_result.begin(), by_result.end(),
                                 [&](const auto& t) { return t == by_result[0]; });
  if (alike)
    rows += fmt::format("<td colspan=\"{}\">{}</td>", by_result.size(), escape_xml(by_result[0]));
  else
    for (const std::string& text : by_result) rows += cell(text.empty() ? "-" : text);
  rows += "</tr>\n";
}

// "" where a loss is not known: none was computed, or training diverged.
std::string loss_text(const Json& result) {
  const auto loss = result.find("loss");
  if (loss == result.end() || loss->empty()) return "";
  if (!loss->front().is_number() || !loss->back().is_number()) return "";
  return fmt::format("{:.6g} in the first step, {:.6g} in the last of {}",
                     loss->front().get<double>(), loss->back().get<double>(), loss->size());
}

}  // namespace

std::string facts_table(const std::vector<PageResult>& results, const Provenance& provenance) {
  const std::vector<Json> all = parsed(results);
  std::string rows, head = header("");
  for (const PageResult& result : results) head += header(result.name);
  const auto add = [&](const char* what, auto text_of) {
    std::vector<std::string> by_result;
    for (const Json& result : all) by_result.push_back(text_of(result));
    fact(rows, what, by_result);
  };
  for (const auto& [what, key] : {std::pair{"scenario", "scenario"},
                                  {"model", "model"},
                                  {"algorithm", "algorithm"},
                                  {"world", "world"},
                                  {"cluster", "cluster"},
                                  {"GPUs", "gpus"},
                                  {"ranks", "ranks"},
                                  {"steps", "steps"},
                                  {"MFU", "mfu"},
                                  {"tokens/s", "tokens_per_s"}})
    add(what, [key = key](const Json& result) { return text_at(result, key); });
  add("loss", loss_text);
  add("version", [](const Json& result) {
    const auto host = result.find("host");
    return host == result.end() ? std::string() : text_at(*host, "version");
  });
  for (const auto& [what, text] : {std::pair{"device", provenance.device},
                                   {"driver", provenance.driver},
                                   {"date", provenance.date},
                                   {"command", provenance.command}})
    if (!text.empty())
      rows += fmt::format("<tr>{}<td colspan=\"{}\"><code>{}</code></td></tr>\n", header(what),
                          results.size(), escape_xml(text));
  return table("What and where", head, rows);
}

std::string communication_table(const std::vector<PageResult>& results) {
  TimedRows rows(results.size());
  const std::vector<Json> all = parsed(results);
  for (std::size_t i = 0; i < all.size(); ++i)
    for (const Json& row : all[i].value("communication", Json::array()))
      rows.add({text_at(row, "operation"), text_at(row, "lane"), text_at(row, "group")}, i,
               row.at("calls").get<double>(), row.at("time_s").get<double>());
  return table("Communication, per step",
               header("operation") + header("lane") + header("group") + timed_head(results),
               timed_rows(rows));
}

std::string kernels_table(const std::vector<PageResult>& results) {
  TimedRows rows(results.size());
  for (std::size_t i = 0; i < results.size(); ++i) {
    const Json work = by_kernel(results[i]).value("work", Json(nullptr));
    if (work.is_null()) continue;
    for (const Json& row : work.at("kernels"))
      rows.add({text_at(row, "operation"), text_at(row, "kernel"), text_at(row, "class")}, i,
               row.at("calls").get<double>(), row.at("time_s").get<double>());
  }
  return table("Kernels, per step",
               header("operation") + header("kernel") + header("class") + timed_head(results),
               timed_rows(rows));
}

std::string functions_table(const std::vector<PageResult>& results) {
  std::string rows;
  for (const PageResult& result : results) {
    const Json work = by_kernel(result).value("work", Json(nullptr));
    if (work.is_null() || !work.contains("native")) continue;
    for (const Json& row : work.at("native").at("functions"))
      rows += "<tr>" + cell(text_at(row, "operation")) + cell(text_at(row, "kernel")) +
              "<td><code>" + escape_xml(text_at(row, "function")) + "</code></td>" +
              number_cell(fmt::format("{:g}", row.at("calls").get<double>())) +
              number_cell(time_text(row.at("time_s").get<double>())) + "</tr>\n";
  }
  return table("Functions of the GPU, per step",
               header("operation") + header("kernel") + header("function") + header("calls", true) +
                   header("time", true),
               rows);
}

std::string assumptions_table(const std::vector<PageResult>& results) {
  std::string rows;
  std::set<std::string> told;
  for (const Json& result : parsed(results))
    for (const Json& row : result.value("assumptions", Json::array())) {
      const std::string line = "<tr>" + cell(text_at(row, "path")) + cell(text_at(row, "value")) +
                               cell(text_at(row, "reason")) + "</tr>\n";
      if (told.insert(line).second) rows += line;
    }
  return table("Assumed, neither measured nor published",
               header("what") + header("value") + header("why"), rows);
}

}  // namespace orrery::cli
