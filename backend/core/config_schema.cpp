#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "backend/core/config.hpp"
#include "backend/core/text.hpp"

namespace orrery {

namespace detail {

namespace {

using Json = nlohmann::ordered_json;

Json section_schema(const Table& table, bool sources);

// A default as JSON: plain numbers and booleans keep their type, all else is text.
Json to_json(const Node& node, const Shape& shape) {
  if (node.is_null()) return nullptr;
  if (node.is_list()) {
    Json out = Json::array();
    for (const Node& child : node.children)
      out.push_back(to_json(child, shape.item.empty() ? shape : shape.item.front()));
    return out;
  }
  if (node.is_map()) {
    Json out = Json::object();
    for (const Node& child : node.children)
      out[child.key] = to_json(child, shape.item.empty() ? shape : shape.item.front());
    return out;
  }
  if (shape.kind == Shape::Kind::integer) return *parse_integer(node.text).value;
  if (shape.kind == Shape::Kind::number) return *parse_number(node.text).value;
  if (shape.kind == Shape::Kind::boolean) return node.text == "true";
  return node.text;
}

Json bound(double value) {
  if (value == static_cast<double>(static_cast<std::int64_t>(value)))
    return static_cast<std::int64_t>(value);
  return value;
}

const char* type_name(Shape::Kind kind) {
  switch (kind) {
    case Shape::Kind::integer:
      return "integer";
    case Shape::Kind::number:
      return "number";
    case Shape::Kind::boolean:
      return "boolean";
    case Shape::Kind::section:
    case Shape::Kind::map:
      return "object";
    case Shape::Kind::list:
      return "array";
    default:
      return "string";
  }
}

bool is_number(Shape::Kind kind) {
  return kind == Shape::Kind::integer || kind == Shape::Kind::number ||
         kind == Shape::Kind::quantity;
}

Json source_schema() { return {{"$ref", "#/definitions/source"}}; }

// {value, source} beside the bare value.
Json with_source(const Json& bare) {
  Json wrapped{{"type", "object"},
               {"properties", {{"value", bare}, {"source", source_schema()}}},
               {"required", {"value"}},
               {"additionalProperties", false}};
  return {{"anyOf", {bare, wrapped}}};
}

Json value_schema(const Shape& shape, const Rules& rules, bool sources) {
  if (shape.kind == Shape::Kind::any) return Json::object();
  Json out = shape.kind == Shape::Kind::section ? section_schema(shape.section(), sources)
                                                : Json{{"type", type_name(shape.kind)}};
  if (shape.kind == Shape::Kind::quantity) {
    out["pattern"] = unit_pattern(shape.unit);
    out["examples"] = Json::array({unit_example(shape.unit)});
  } else if (is_number(shape.kind)) {
    if (rules.min) out[rules.above_min ? "exclusiveMinimum" : "minimum"] = bound(*rules.min);
    if (rules.max) out["maximum"] = bound(*rules.max);
  } else if (shape.kind == Shape::Kind::string && !rules.allowed.empty()) {
    out["enum"] = rules.allowed;
  } else if (shape.kind == Shape::Kind::list) {
    out["items"] = value_schema(shape.item.front(), rules, sources);
    if (rules.min_items > 0) out["minItems"] = rules.min_items;
  } else if (shape.kind == Shape::Kind::map) {
    out["additionalProperties"] = value_schema(shape.item.front(), rules, sources);
    if (sources) out["properties"] = {{"source", source_schema()}};
  }
  if (shape.sourced || (sources && is_number(shape.kind))) out = with_source(out);
  // An empty section is a mapping without keys.
  if (shape.nullable || shape.kind == Shape::Kind::section)
    out = {{"anyOf", Json::array({out, {{"type", "null"}}})}};
  return out;
}

Json section_schema(const Table& table, bool sources) {
  Json properties = Json::object(), required = Json::array();
  for (const Entry& entry : table.entries) {
    Json field = value_schema(entry.shape, entry.rules, sources);
    std::string text = entry.doc;
    if (entry.shape.unit != Dimension::none) {
      const std::string range = range_text(entry.rules, entry.shape.unit);
      text += (text.empty() ? "" : "; ") + std::string(unit_description(entry.shape.unit)) +
              (range.empty() ? "" : ", " + range);
    }
    if (!text.empty()) field["description"] = text;
    if (entry.required)
      required.push_back(entry.name);
    else if (entry.shape.kind != Shape::Kind::section && entry.shape.kind != Shape::Kind::any)
      field["default"] = to_json(table.default_value(entry), entry.shape);
    properties[entry.name] = std::move(field);
  }
  if (sources && !properties.contains("source")) properties["source"] = source_schema();
  Json out{{"type", "object"}, {"properties", std::move(properties)}};
  if (!required.empty()) out["required"] = std::move(required);
  out["additionalProperties"] = table.rest.has_value();
  return out;
}

bool mentions_source(const Json& schema) {
  return schema.dump().find("#/definitions/source") != std::string::npos;
}

std::string type_text(const Shape& shape, const Rules& rules) {
  std::string out;
  if (shape.kind == Shape::Kind::list)
    out = "list of " + type_text(shape.item.front(), rules);
  else if (shape.kind == Shape::Kind::map)
    out = "mapping to " + type_text(shape.item.front(), rules);
  else if (shape.kind == Shape::Kind::quantity)
    out = unit_description(shape.unit);
  else if (shape.kind == Shape::Kind::section)
    out = "section";
  else if (shape.kind == Shape::Kind::any)
    out = "anything";
  else if (!rules.allowed.empty())
    out = join(rules.allowed, ", ");
  else
    out = type_name(shape.kind);
  return shape.nullable ? out + ", or null" : out;
}

void reference_rows(const Table& table, const std::string& path, std::string& out) {
  for (const Entry& entry : table.entries) {
    const std::string key = join_path(path, entry.name);
    const Shape& inner = entry.shape.item.empty() ? entry.shape : entry.shape.item.front();
    std::string standard = entry.required ? "required" : "";
    if (!entry.required && inner.section == nullptr && entry.shape.kind != Shape::Kind::any)
      standard = "`" + to_json(table.default_value(entry), entry.shape).dump() + "`";
    out += fmt::format("| `{}` | {} | {} | {} | {} |\n", key, type_text(entry.shape, entry.rules),
                       standard, range_text(entry.rules, inner.unit), entry.doc);
    if (inner.section != nullptr) {
      const char* step = entry.shape.kind == Shape::Kind::list  ? "[]"
                         : entry.shape.kind == Shape::Kind::map ? ".NAME"
                                                                : "";
      reference_rows(inner.section(), key + step, out);
    }
  }
}

}  // namespace

std::string json_schema_text(const Table& table, const std::string& title,
                             const ReadOptions& options) {
  Json out{{"$schema", "http://json-schema.org/draft-07/schema#"}, {"title", title}};
  out.update(section_schema(table, options.sources == Sources::required));
  if (mentions_source(out))
    out["definitions"] = {{"source", section_schema(table_of<Source>(), false)}};
  return out.dump(2) + "\n";
}

std::string key_reference_text(const Table& table) {
  std::string out = "| key | type | default | range | meaning |\n|---|---|---|---|---|\n";
  reference_rows(table, "", out);
  return out;
}

}  // namespace detail
}  // namespace orrery
