// `orrery list`: everything that has a name.
#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "backend/core/table.hpp"
#include "backend/core/text.hpp"
#include "scenarios/cli/command.hpp"
#include "scenarios/cli/numbers.hpp"
#include "scenarios/cli/simulation.hpp"
#include "scenarios/cli/sources.hpp"

namespace orrery::cli {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// A file that cannot be read is listed with what is wrong, and hides nothing else.
template <class Fill>
Json row(const std::string& name, Fill fill) {
  Json j{{"name", name}};
  try {
    fill(j);
  } catch (const ConfigError& error) {
    j = {{"name", name}, {"error", error.messages.front().text}};
  } catch (const Error& error) {
    j = {{"name", name}, {"error", error.message()}};
  }
  return j;
}

template <class Fill>
Json rows(const std::vector<std::string>& names, Fill fill) {
  Json all = Json::array();
  for (const std::string& name : names) all.push_back(row(name, [&](Json& j) { fill(name, j); }));
  return all;
}

// As the model's file says; a config.json is of a transformer.
std::string kind_of(const ModelSpec& model) {
  if (model.kind == ModelKind::transformer) return "transformer";
  const Document document = Document::parse_file(model.file);
  const Node* kind = document.root().find("kind");
  return kind != nullptr ? kind->text : "";
}

Json models(const std::string& root) {
  return rows(model_names(root), [&](const std::string& name, Json& j) {
    const ModelSpec model = read_model(name, root);
    j["kind"] = kind_of(model);
    j["parameters"] = model.parameters();
    j["layers"] = model.layers();
    j["file"] = fs::path(model.file).lexically_proximate(root).generic_string();
  });
}

Json gpus(const std::string& root) {
  const PlatformFolder folder(root);
  return rows(folder.names(PlatformKind::gpu), [&](const std::string& name, Json& j) {
    const GpuSpec gpu = folder.gpu(name);
    j["memory"] = quantity_text(gpu.memory.capacity.value);
    j["bandwidth"] = quantity_text(gpu.memory.bandwidth.value);
    const auto& peaks = gpu.compute.peak;
    j["bf16"] = peaks.bf16 ? Json(quantity_text(peaks.bf16->value)) : Json(nullptr);
    j["fp32"] = peaks.fp32 ? Json(quantity_text(peaks.fp32->value)) : Json(nullptr);
    j["sm"] = gpu.compute.sm.value;
    j["link"] = gpu.link.scale_up ? Json(gpu.link.scale_up->kind) : Json(nullptr);
    j["aliases"] = gpu.aliases;
  });
}

Json nodes(const std::string& root) {
  const PlatformFolder folder(root);
  return rows(folder.names(PlatformKind::node), [&](const std::string& name, Json& j) {
    const NodeSpec node = folder.node(name);
    j["gpus"] = node.gpus.count.value;
    j["gpu"] = node.gpus.model.value;
    j["scale_up"] = node.scale_up ? Json(node.scale_up->topology) : Json(nullptr);
    j["nics"] = node.nics ? node.nics->count.value : 0;
    j["nic"] = node.nics ? Json(quantity_text(node.nics->bandwidth.value)) : Json(nullptr);
    j["aliases"] = node.aliases;
  });
}

Json clusters(const std::string& root) {
  const PlatformFolder folder(root);
  return rows(folder.names(PlatformKind::cluster), [&](const std::string& name, Json& j) {
    const Platform platform = read_platform(folder, name);
    std::vector<std::string> parts;
    for (const Platform::Part& part : platform.parts)
      parts.push_back(fmt::format("{} x {}", part.count, part.node.name));
    j["gpus"] = platform.gpus();
    j["gpu"] = platform.parts.empty() ? "" : platform.parts.front().gpu.name;
    j["nodes"] = join(parts, " + ");
    j["topology"] = platform.cluster.fabric.topology;
    j["aliases"] = platform.cluster.aliases;
  });
}

Json stacks(const std::string& root) {
  const PlatformFolder folder(root);
  return rows(folder.names(PlatformKind::stack), [&](const std::string& name, Json& j) {
    const StackSpec stack = folder.stack(name);
    j["attention"] = stack.attention;
    j["launch"] = quantity_text(stack.host.launch.value);
    j["elementwise"] = stack.elementwise.value;
    j["aliases"] = stack.aliases;
  });
}

Json platforms(const std::string& root) {
  Json all = Json::array();
  for (const PlatformKind kind : platform_kinds())
    for (const std::string& name : PlatformFolder(root).names(kind))
      all.push_back({{"name", name}, {"kind", orrery::name(kind)}});
  return all;
}

Json algorithms(const std::string&) {
  Json all = Json::array();
  for (const AlgorithmEntry& a : algorithm_table())
    all.push_back({{"name", a.name}, {"paper", a.paper}, {"composes_with", a.composes_with}});
  return all;
}

Json schedules(const std::string&) {
  Json all = Json::array();
  const std::vector<Explained> known = explained_schedules();
  for (const ScheduleName& schedule : schedule_names()) {
    Json j{{"name", schedule.name}, {"available", schedule.available}, {"summary", nullptr}};
    for (const Explained& e : known)
      if (e.name == schedule.name) j["summary"] = e.summary;
    all.push_back(std::move(j));
  }
  return all;
}

// Below scenarios/, but for models, learned optimizers, measured cases, texts and sources.
Json scenarios(const std::string& root) {
  std::vector<std::string> files;
  std::error_code none;
  for (const auto& entry : fs::recursive_directory_iterator(fs::path(root) / "scenarios", none)) {
    const std::string file = fs::path(entry.path()).lexically_relative(root).generic_string();
    const bool other = file.starts_with("scenarios/models/") ||
                       file.starts_with("scenarios/learned/") ||
                       file.starts_with("scenarios/published/");
    if (file.ends_with(".yaml") && !other) files.push_back(file);
  }
  std::sort(files.begin(), files.end());
  return rows(files, [&](const std::string& file, Json& j) {
    const Scenario s =
        orrery::read_scenario(Document::parse_file((fs::path(root) / file).string()), root);
    j["model"] = s.model_spec.name;
    j["algorithm"] = s.algorithm.name;
    j["gpus"] = s.gpus();
    j["cluster"] = s.machines.cluster.name;
    j["values"] = s.run.values == RunValues::real ? "real" : "virtual";
  });
}

// "a.b" and "a.c" have "a".
std::string common_section(std::string a, const std::string& b) {
  while (!a.empty() && b != a && !b.starts_with(a + ".")) {
    const std::size_t dot = a.rfind('.');
    a = dot == std::string::npos ? "" : a.substr(0, dot);
  }
  return a;
}

// Neighbouring constants of one file that were fitted together.
struct Fit {
  std::string file, section;
  std::vector<SourcedNumber> constants;
};

std::vector<Fit> fits_of(PlatformKind kind, const std::string& file, const std::string& root) {
  std::vector<Fit> out;
  for (SourcedNumber& n : sourced_numbers(kind, file, root)) {
    if (!n.source || n.source->kind != SourceKind::fitted) continue;
    std::string parent = n.path.substr(0, n.path.rfind('.') + 1);
    if (!parent.empty()) parent.pop_back();
    const std::string shared = out.empty() ? "" : common_section(out.back().section, parent);
    if (out.empty() || out.back().constants.front().source != n.source ||
        (shared.empty() && !parent.empty()))
      out.push_back({file, parent, {}});
    else
      out.back().section = shared;
    out.back().constants.push_back(std::move(n));
  }
  return out;
}

// The constants that were fitted on measurements: what is known of the accuracy so far.
Json fits(const std::string& root) {
  Json all = Json::array();
  for (const PlatformKind kind : platform_kinds())
    for (const std::string& file : PlatformFolder(root).names(kind))
      for (const Fit& fit : fits_of(kind, file, root)) {
        Json j{{"name", fit.file + (fit.section.empty() ? "" : " " + fit.section)},
               {"constants", Json::array()}};
        for (const SourcedNumber& n : fit.constants) {
          const std::size_t skip = fit.section.empty() ? 0 : fit.section.size() + 1;
          j["constants"].push_back(fmt::format("{} {}", n.path.substr(skip), n.value));
        }
        const Source& source = *fit.constants.front().source;
        j["residual"] = source.residual.value_or(0);
        j["cases"] = source.cases;
        j["note"] = source.note;
        all.push_back(std::move(j));
      }
  return all;
}

struct Kind {
  const char* name;
  Json (*rows)(const std::string& root);
};
const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all{{"models", models},
                                     {"platforms", platforms},
                                     {"clusters", clusters},
                                     {"nodes", nodes},
                                     {"gpus", gpus},
                                     {"stacks", stacks},
                                     {"algorithms", algorithms},
                                     {"schedules", schedules},
                                     {"scenarios", scenarios},
                                     {"fits", fits}};
  return all;
}

std::string cell(const std::string& key, const Json& value) {
  if (value.is_null()) return "-";
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (value.is_array()) {
    const auto all = value.get<std::vector<std::string>>();
    if (key == "constants") return std::to_string(all.size());
    if (key != "cases") return join(all, ", ");
    // The first, up to its own details; the JSON has them whole.
    const std::string first = all.empty() ? "" : all.front().substr(0, all.front().find(" ("));
    return all.size() < 2 ? first : fmt::format("{} + {} more", first, all.size() - 1);
  }
  if (key == "residual") return format_percent(value.get<double>());
  if (value.is_number_integer()) return format_thousands(value.get<std::int64_t>());
  return value.is_string() ? value.get<std::string>() : value.dump();
}

void print_table(const Json& all) {
  std::vector<std::string> keys;
  std::vector<bool> numeric;
  for (const Json& row : all)
    for (const auto& [key, value] : row.items()) {
      if (key == "note") continue;  // too long for a table
      const auto known = std::find(keys.begin(), keys.end(), key);
      if (known != keys.end()) continue;
      keys.push_back(key);
      numeric.push_back(value.is_number() || key == "constants");
    }
  TextTable table;
  for (std::size_t i = 0; i < keys.size(); ++i)
    numeric[i] ? table.column(keys[i]) : table.left(keys[i]);
  for (const Json& row : all) {
    std::vector<std::string> cells;
    for (const std::string& key : keys)
      cells.push_back(row.contains(key) ? cell(key, row[key]) : "");
    table.row(cells);
  }
  fmt::print("{}", table.text());
}

}  // namespace

std::vector<std::string> list_kinds() {
  std::vector<std::string> names;
  for (const Kind& kind : kinds()) names.emplace_back(kind.name);
  return names;
}

int list(const Arguments& arguments) {
  const std::string& wanted = arguments.positional.front();
  for (const Kind& kind : kinds()) {
    if (wanted != kind.name) continue;
    const Json all = kind.rows(data_root());
    if (arguments.json)
      fmt::print("{}\n", all.dump(2));
    else
      print_table(all);
    return 0;
  }
  const std::string hint = did_you_mean(wanted, list_kinds());
  throw Error(Category::usage,
              fmt::format("cannot list '{}'; {}", wanted,
                          hint.empty() ? "there are " + join(list_kinds(), ", ") : hint));
}

}  // namespace orrery::cli
