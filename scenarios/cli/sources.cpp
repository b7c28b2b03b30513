#include "scenarios/cli/sources.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "algorithms/algorithm_table.hpp"
#include "algorithms/pipeline/schedule.hpp"
#include "backend/core/error.hpp"
#include "backend/core/text.hpp"
#include "scenarios/scenario.hpp"

namespace orrery::cli {

namespace {

// The run of `//` lines that starts at `lines[at]`, without slashes.
std::string comment_at(const std::vector<std::string>& lines, std::size_t at) {
  std::string text;
  for (; at < lines.size() && lines[at].starts_with("//"); ++at) {
    const std::string& line = lines[at];
    text += line.substr(line.starts_with("// ") ? 3 : 2) + "\n";
  }
  return text;
}

// Up to the first full stop or colon at the end of a word, on one line.
std::string first_sentence(const std::string& text) {
  std::string flat = text.substr(0, text.find("\n\n"));
  std::replace(flat.begin(), flat.end(), '\n', ' ');
  for (std::size_t at = 0; at + 1 < flat.size(); ++at) {
    const bool ends = (flat[at] == '.' || flat[at] == ':') && flat[at + 1] == ' ';
    if (ends && !flat.substr(0, at).ends_with("et al")) return flat.substr(0, at);
  }
  return flat;
}

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

// `text` starts with the word `name`, whatever their case.
bool starts_with_word(const std::string& text, const std::string& name) {
  if (lower(text.substr(0, name.size())) != name) return false;
  return text.size() == name.size() || text[name.size()] == ' ' || text[name.size()] == ',';
}

// The words that the schema allows for the first key of this name.
void find_allowed(const nlohmann::json& schema, const std::string& key,
                  std::vector<std::string>& out) {
  if (!schema.is_structured() || !out.empty()) return;
  if (schema.is_object() && schema.contains(key) && schema[key].contains("enum"))
    out = schema[key]["enum"].get<std::vector<std::string>>();
  for (const auto& child : schema) find_allowed(child, key, out);
}

}  // namespace

std::vector<Explained> explained_algorithms() {
  std::vector<Explained> all;
  for (const AlgorithmEntry& entry : algorithm_table()) {
    Explained e{entry.name, entry.source, {}, {}};
    for (const EmbeddedSource& source : embedded_sources())
      if (source.path == entry.source) e.text = comment_at(split(source.text, '\n'), 0);
    e.summary = first_sentence(e.text);
    e.text += fmt::format("\nComposes with: {}.\n", join(entry.composes_with, ", "));
    for (const Refusal& r : entry.refuses)
      e.text += fmt::format("Not with {}: {}.\n", r.what, r.reason);
    all.push_back(std::move(e));
  }
  return all;
}

std::vector<Explained> explained_schedules() {
  std::vector<Explained> all;
  for (const EmbeddedSource& source : embedded_sources()) {
    if (!source.path.ends_with("schedule.hpp")) continue;
    const std::vector<std::string> lines = split(source.text, '\n');
    for (std::size_t at = 1; at < lines.size(); ++at) {
      if (!lines[at].starts_with("//") || lines[at - 1].starts_with("//")) continue;
      const std::string text = comment_at(lines, at);
      for (const ScheduleName& schedule : schedule_names())
        if (starts_with_word(text, schedule.name))
          all.push_back({schedule.name, source.path, text, first_sentence(text)});
    }
  }
  return all;
}

std::vector<ScheduleName> schedule_names() {
  static const std::vector<ScheduleName> all = [] {
    const auto schema = nlohmann::json::parse(scenario_schema());
    std::vector<std::string> names;
    find_allowed(schema, "schedule", names);
    const std::vector<std::string> there = schedule_kinds();
    std::vector<ScheduleName> found;
    for (const std::string& name : names)
      found.push_back({name, std::find(there.begin(), there.end(), name) != there.end()});
    return found;
  }();
  return all;
}

}  // namespace orrery::cli
