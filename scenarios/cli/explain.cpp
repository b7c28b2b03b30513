// `orrery explain`: algorithms, schedules, figures, keys, models and platforms, by name.
#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <functional>
#include <nlohmann/json.hpp>

#include "backend/core/table.hpp"
#include "backend/core/text.hpp"
#include "scenarios/cli/command.hpp"
#include "scenarios/cli/figures.hpp"
#include "scenarios/cli/numbers.hpp"
#include "scenarios/cli/simulation.hpp"
#include "scenarios/cli/sources.hpp"

namespace orrery::cli {

namespace {

using Json = nlohmann::ordered_json;

// One thing that can be explained. `tell` makes the JSON and the text.
struct Explanation {
  Json json;
  std::string text;
};
struct Topic {
  std::string kind, name;
  std::function<Explanation()> tell;
};

Explanation of_source(const char* kind, const Explained& e) {
  return {{{"name", e.name}, {"kind", kind}, {"source", e.path}, {"text", e.text}},
          fmt::format("{} ({} in {})\n\n{}", e.name, kind, e.path, e.text)};
}

Explanation of_figure(const Figure& f) {
  const std::string unit = *f.unit != '\0' ? fmt::format(", in {}", f.unit) : "";
  return {{{"name", f.name}, {"kind", "figure"}, {"unit", f.unit}, {"text", f.meaning}},
          fmt::format("{} (figure of a result{})\n\n{}\n", f.name, unit, f.meaning)};
}

Explanation of_platform(PlatformKind kind, const std::string& name, const std::string& root) {
  Explanation e{{{"name", name}, {"kind", orrery::name(kind)}, {"numbers", Json::array()}},
                fmt::format("{} ({})\n\n", name, orrery::name(kind))};
  TextTable table;
  table.left("number").column("value").left("source");
  for (const SourcedNumber& n : sourced_numbers(kind, name, root)) {
    const std::string source = n.source ? source_text(*n.source) : "";
    table.row({n.path, n.value, source});
    e.json["numbers"].push_back({{"path", n.path}, {"value", n.value}, {"source", source}});
  }
  e.text += table.text();
  return e;
}

// A transformer's dimensions with defaults filled in; those of other models as their file has them.
Explanation of_model(const std::string& name, const std::string& root) {
  const ModelSpec model = read_model(name, root);
  const Node dimensions = model.kind == ModelKind::transformer
                              ? to_node(model.transformer)
                              : Document::parse_file(model.file).root();
  Explanation e{{{"name", name},
                 {"kind", "model"},
                 {"source", model.file},
                 {"parameters", model.parameters()},
                 {"numbers", Json::array()}},
                fmt::format("{} (model in {})\n\n", name, model.file)};
  TextTable table;
  table.left("dimension").column("value");
  table.row({"parameters", format_thousands(model.parameters())});
  for (const Node& child : dimensions.children) {
    if (!child.is_scalar() || child.key == "name" || child.key == "kind") continue;
    table.row({child.key, child.text});
    e.json["numbers"].push_back(
        {{"path", child.key}, {"value", child.text}, {"source", model.file}});
  }
  e.text += table.text();
  return e;
}

// A row of the key reference: | key | type | default | range | meaning |.
struct Key {
  std::string path, type, fallback, range, meaning;
};
std::vector<Key> scenario_keys() {
  std::vector<Key> keys;
  for (const std::string& line : split(key_reference<Scenario>(), '\n')) {
    const std::vector<std::string> cells = split(line, '|');
    if (cells.size() < 7) continue;
    const auto text = [&cells](std::size_t i) {
      std::string out(trim(cells[i]));
      out.erase(std::remove(out.begin(), out.end(), '`'), out.end());
      return out;
    };
    if (text(1) != "key" && !text(1).starts_with("---"))
      keys.push_back({text(1), text(2), text(3), text(4), text(5)});
  }
  return keys;
}

Explanation of_key(const Key& key) {
  std::string text = fmt::format("{} (key of a scenario)\n\n", key.path);
  Json json{{"name", key.path}, {"kind", "key"}};
  for (const auto& [label, value] : {std::pair{"type", key.type},
                                     {"default", key.fallback},
                                     {"range", key.range},
                                     {"meaning", key.meaning}}) {
    json[label] = value;
    if (!value.empty()) text += fmt::format("{:<9} {}\n", label, value);
  }
  return {json, text};
}

std::vector<Topic> topics() {
  std::vector<Topic> all;
  for (const Explained& e : explained_algorithms())
    all.push_back({"algorithm", e.name, [e] { return of_source("algorithm", e); }});
  for (const Explained& e : explained_schedules())
    all.push_back({"schedule", e.name, [e] { return of_source("schedule", e); }});
  for (const Figure& f : figures())
    all.push_back({"figure", f.name, [&f] { return of_figure(f); }});
  const std::string root = data_root();
  for (const std::string& name : model_names(root))
    all.push_back({"model", name, [name, root] { return of_model(name, root); }});
  for (const PlatformKind kind : platform_kinds())
    for (const std::string& name : PlatformFolder(root).names(kind))
      all.push_back(
          {orrery::name(kind), name, [kind, name, root] { return of_platform(kind, name, root); }});
  for (const Key& key : scenario_keys())
    all.push_back({"key", key.path, [key] { return of_key(key); }});
  return all;
}

std::string simple(std::string name) {
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

// By its name, by the name of a figure without its unit, or by a platform's alias.
const Topic* find_topic(const std::vector<Topic>& all, const std::string& wanted) {
  for (const Topic& topic : all)
    if (simple(topic.name) == simple(wanted)) return &topic;
  for (const Topic& topic : all)
    if (topic.kind == "figure" && simple(topic.name) == simple(wanted) + "-s") return &topic;
  const PlatformFolder folder(data_root());
  for (const PlatformKind kind : platform_kinds()) {
    if (wanted.ends_with(".yaml")) break;
    const std::string file = folder.find(kind, wanted);
    for (const Topic& topic : all)
      if (!file.empty() && topic.kind == orrery::name(kind) &&
          file.ends_with("/" + topic.name + ".yaml"))
        return &topic;
  }
  return nullptr;
}

int print_topics(const std::vector<Topic>& all, bool json) {
  if (json) {
    Json j = Json::array();
    for (const Topic& topic : all) j.push_back({{"name", topic.name}, {"kind", topic.kind}});
    fmt::print("{}\n", j.dump(2));
    return 0;
  }
  TextTable table;
  table.left("kind").left("name");
  for (const Topic& topic : all) table.row({topic.kind, topic.name});
  fmt::print("{}", table.text());
  return 0;
}

}  // namespace

std::vector<std::string> explain_topics() {
  std::vector<std::string> names;
  for (const Topic& topic : topics()) names.push_back(topic.name);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

int explain(const Arguments& arguments) {
  const std::vector<Topic> all = topics();
  if (arguments.positional.empty()) return print_topics(all, arguments.json);
  const std::string& wanted = arguments.positional.front();
  const Topic* topic = find_topic(all, wanted);
  if (topic == nullptr) {
    const std::string hint = did_you_mean(wanted, explain_topics());
    throw Error(Category::usage,
                fmt::format("nothing is called '{}'; {}", wanted,
                            hint.empty() ? "`orrery explain` lists what can be explained" : hint));
  }
  const Explanation explanation = topic->tell();
  fmt::print("{}", arguments.json ? explanation.json.dump(2) + "\n" : explanation.text);
  return 0;
}

}  // namespace orrery::cli
