#include <fmt/format.h>

#include <algorithm>

#include "backend/core/config.hpp"
#include "backend/core/text.hpp"

namespace orrery {

namespace {
constexpr const char* kind_names[]{"datasheet", "measured", "fitted", "assumed"};
}

const char* name(SourceKind kind) { return kind_names[static_cast<std::size_t>(kind)]; }

void describe(Fields<Source>& f) {
  f.field("kind", &Source::kind)
      .required()
      .one_of({{"datasheet", SourceKind::datasheet},
               {"measured", SourceKind::measured},
               {"fitted", SourceKind::fitted},
               {"assumed", SourceKind::assumed}});
  f.field("document", &Source::document);
  f.field("table", &Source::table);
  f.field("date", &Source::date);
  f.field("device", &Source::device);
  f.field("driver", &Source::driver);
  f.field("command", &Source::command);
  f.field("cases", &Source::cases);
  f.field("residual", &Source::residual).at_least(0);
  f.field("note", &Source::note);
}

namespace detail {

void Entry::set_doc(std::string_view text) { doc = text; }
void Entry::allow(std::string_view allowed_name) { rules.allowed.emplace_back(allowed_name); }

Entry& Table::add(std::string_view name, const ValueType& type, Shape shape, const void* member) {
  Entry& entry = entries.emplace_back();
  entry.name = name;
  entry.type = &type;
  entry.shape = std::move(shape);
  entry.offset = offset_of(fresh, member);
  return entry;
}

void Table::keep_rest(const void* member) { rest = offset_of(fresh, member); }

Node Table::default_value(const Entry& entry) const {
  return entry.type->write(entry.standard ? entry.standard.get() : entry.in(fresh), entry.rules);
}

// A `source:` of the mapping in force until the end of the scope.
class Reader::Inherit {
 public:
  Inherit(Reader& r, const Node& mapping, const std::string& path)
      : r_(r), node_(r.inherited_node_), source_(r.inherited_) {
    const Node* given = r.sources_required() ? mapping.find("source") : nullptr;
    if (given == nullptr) return;
    r.inherited_ = r.source(*given, join_path(path, "source"));
    if (!r.inherited_) r.inherited_ = Source{};  // reported; do not report every number below it
    r.inherited_node_ = given;
  }
  Inherit(const Inherit&) = delete;
  Inherit& operator=(const Inherit&) = delete;
  ~Inherit() {
    r_.inherited_node_ = node_;
    r_.inherited_ = std::move(source_);
  }

 private:
  Reader& r_;
  const Node* node_;
  std::optional<Source> source_;
};

namespace {

std::string labelled(const std::string& path, const std::string& text) {
  return path.empty() ? text : fmt::format("{}: {}", path, text);
}

std::string in_section(const std::string& path) {
  return path.empty() ? "" : fmt::format(" in {}", path);
}

bool is_setting(const Mark& mark) { return mark.source && mark.source->name == "--set"; }

std::string yes_or_no_hint(const std::string& text) {
  for (const char* yes : {"yes", "Yes", "YES", "on", "On", "ON", "y", "Y", "True", "TRUE", "1"})
    if (text == yes) return "write true";
  for (const char* no : {"no", "No", "NO", "off", "Off", "OFF", "n", "N", "False", "FALSE", "0"})
    if (text == no) return "write false";
  return "";
}

// What a source of this kind lacks.
std::vector<std::string> missing_parts(const Source& s) {
  std::vector<std::string> missing;
  const auto need = [&](const char* key, bool given) {
    if (!given) missing.emplace_back(key);
  };
  if (s.kind == SourceKind::datasheet) {
    need("document", !s.document.empty());
    need("table", !s.table.empty());
  } else if (s.kind == SourceKind::measured) {
    need("date", !s.date.empty());
    need("device", !s.device.empty());
    need("driver", !s.driver.empty());
    need("command", !s.command.empty());
  } else if (s.kind == SourceKind::fitted) {
    need("cases", !s.cases.empty());
    need("residual", s.residual.has_value());
  }
  return missing;
}

}  // namespace

std::string range_text(const Rules& rules, Dimension unit) {
  const auto say = [&](double bound) { return quantity_text(bound, unit); };
  std::vector<std::string> parts;
  if (rules.min)
    parts.push_back(fmt::format("{} {}", rules.above_min ? "above" : "at least", say(*rules.min)));
  if (rules.max) parts.push_back(fmt::format("at most {}", say(*rules.max)));
  return join(parts, ", ");
}

void Reader::error(const Mark& at, std::string text, std::string suggestion) {
  problems_.add(at, std::move(text), std::move(suggestion));
}

Reader Reader::without_sources() const {
  return Reader(problems_, {Sources::optional, options_.unknown});
}

bool Reader::scalar(const Node& node, const std::string& path, const char* expected) {
  if (node.is_scalar()) return true;
  error(node.is_null() ? node.where() : node.mark,
        labelled(path, fmt::format("expected {}, got {}", expected, kind_text(node))));
  return false;
}

bool Reader::in_range(const Node& node, const std::string& path, const Rules& rules, double value,
                      Dimension unit) {
  const bool low = rules.min && (value < *rules.min || (rules.above_min && value <= *rules.min));
  const bool negative = unit != Dimension::none && !rules.min && value < 0;
  if (!low && !negative && !(rules.max && value > *rules.max)) return true;
  const std::string range = negative ? "not negative" : range_text(rules, unit);
  error(node.mark, labelled(path, fmt::format("{} is out of range", node.text)),
        "must be " + range);
  return false;
}

bool Reader::integer(const Node& node, const std::string& path, const Rules& rules,
                     std::int64_t& out) {
  if (!scalar(node, path, "a whole number")) return false;
  if (node.quoted)
    return error(node.mark,
                 labelled(path, fmt::format("expected a whole number, got {}", kind_text(node))),
                 "drop the quotes"),
           false;
  const auto parsed = parse_integer(node.text);
  if (!parsed.value)
    return error(node.mark, labelled(path, parsed.error), parsed.suggestion), false;
  if (!in_range(node, path, rules, static_cast<double>(*parsed.value), Dimension::none))
    return false;
  out = *parsed.value;
  return true;
}

bool Reader::quantity(const Node& node, const std::string& path, const Rules& rules, Dimension unit,
                      double& out) {
  if (!scalar(node, path, unit_description(unit))) return false;
  if (node.quoted && unit == Dimension::none)
    return error(node.mark,
                 labelled(path, fmt::format("expected a number, got {}", kind_text(node))),
                 "drop the quotes"),
           false;
  const auto parsed = parse_quantity(node.text, unit);
  if (!parsed.value)
    return error(node.mark, labelled(path, parsed.error), parsed.suggestion), false;
  if (!in_range(node, path, rules, *parsed.value, unit)) return false;
  out = *parsed.value;
  return true;
}

bool Reader::bytes(const Node& node, const std::string& path, const Rules& rules, Bytes& out) {
  if (!scalar(node, path, unit_description(Dimension::bytes))) return false;
  const auto parsed = parse_bytes(node.text);
  if (!parsed.value)
    return error(node.mark, labelled(path, parsed.error), parsed.suggestion), false;
  if (!in_range(node, path, rules, static_cast<double>(parsed.value->value), Dimension::bytes))
    return false;
  out = *parsed.value;
  return true;
}

bool Reader::boolean(const Node& node, const std::string& path, bool& out) {
  if (!scalar(node, path, "true or false")) return false;
  if (!node.quoted && (node.text == "true" || node.text == "false"))
    return out = node.text == "true", true;
  const bool word = node.text == "true" || node.text == "false";
  error(node.mark, labelled(path, fmt::format("expected true or false, got {}", kind_text(node))),
        word ? "drop the quotes" : yes_or_no_hint(node.text));
  return false;
}

bool Reader::choice(const Node& node, const std::string& path, const Rules& rules,
                    std::size_t& out) {
  if (!scalar(node, path, fmt::format("one of {}", join(rules.allowed, ", ")).c_str()))
    return false;
  for (std::size_t i = 0; i < rules.allowed.size(); ++i)
    if (rules.allowed[i] == node.text) return out = i, true;
  error(node.mark,
        labelled(path,
                 fmt::format("{} is not one of {}", kind_text(node), join(rules.allowed, ", "))),
        did_you_mean(node.text, rules.allowed));
  return false;
}

bool Reader::string(const Node& node, const std::string& path, const Rules& rules,
                    std::string& out) {
  std::size_t index = 0;
  if (!rules.allowed.empty() && !choice(node, path, rules, index)) return false;
  if (!scalar(node, path, "text")) return false;
  out = node.text;
  return true;
}

std::optional<Source> Reader::source(const Node& node, const std::string& path) {
  const std::size_t before = problems_.size();
  Source out;
  Reader plain = without_sources();
  if (node.is_map())
    Value<Source>::read(plain, node, path, {}, out);
  else
    error(node.where(), labelled(path, fmt::format("expected a mapping, got {}", kind_text(node))),
          "write source: {kind: ...}");
  if (problems_.size() > before) return std::nullopt;
  for (const std::string& key : missing_parts(out))
    error(node.where(),
          fmt::format("missing key '{}' in {}: a {} source needs it", key, path, name(out.kind)));
  if (problems_.size() > before) return std::nullopt;
  return out;
}

Leaf Reader::leaf(const Node& node, const std::string& path, bool sourced, bool number) {
  if (!sourced && !sources_required()) return {&node, std::nullopt};
  Leaf out{&node, inherited_};
  const Node* own = nullptr;
  if (node.is_map()) {
    for (const Node& child : node.children)
      if (child.key != "value" && child.key != "source")
        unknown_key(child, path, {"value", "source"});
    out.value = node.find("value");
    own = node.find("source");
    if (out.value == nullptr)
      error(node.where(), fmt::format("missing key 'value'{}", in_section(path)),
            "write a number or {value: ..., source: ...}");
  }
  if (own != nullptr) {
    out.source = source(*own, join_path(path, "source"));
  } else if (out.value != nullptr && is_setting(out.value->mark)) {
    out.source = Source{};  // the source written above it speaks of another number
    out.source->note = fmt::format("--set {}", out.value->mark.source->text);
  } else if (out.value != nullptr && !out.source && sources_required() && number &&
             !out.value->is_null()) {
    error(out.value->mark, fmt::format("no source for {}", path),
          "give {value: ..., source: {kind: ...}}, or a 'source' in a mapping around it");
  }
  return out;
}

Source Reader::default_source() {
  Source s;
  s.note = "default of the program";
  return s;
}

bool Reader::list(const Node& node, const std::string& path, const Rules& rules) {
  if (!node.is_list()) {
    error(node.is_null() ? node.where() : node.mark,
          labelled(path, fmt::format("expected a list, got {}", kind_text(node))),
          node.is_scalar() ? fmt::format("write [{}]", node.text.substr(0, 40))
          : node.is_null() ? "write [] for an empty list"
                           : "");
    return false;
  }
  if (node.children.size() >= rules.min_items) return true;
  error(node.where(), labelled(path, fmt::format("has {} items", node.children.size())),
        fmt::format("must have at least {}", rules.min_items));
  return false;
}

void Reader::unknown_key(const Node& child, const std::string& path,
                         const std::vector<std::string>& known) {
  if (options_.unknown == UnknownKeys::ignore) return;
  const std::string shown = kind_text(Node::scalar(child.key));
  error(child.where(), fmt::format("unknown key {}{}", shown, in_section(path)),
        did_you_mean(child.key, known));
}

void Reader::section(const Table& table, const Node& node, const std::string& path, void* object) {
  if (!node.is_map() && !node.is_null())
    return error(node.mark,
                 labelled(path, fmt::format("expected a mapping, got {}", kind_text(node))));
  const std::size_t before = problems_.size();
  const Inherit scope(*this, node, path);
  std::vector<std::string> known;
  for (const Entry& entry : table.entries) known.push_back(entry.name);
  Node rest = Node::map();
  rest.mark = node.mark;
  rest.key_mark = node.where();
  for (const Node& child : node.children) {
    const bool is_known = std::find(known.begin(), known.end(), child.key) != known.end();
    if (is_known || (sources_required() && child.key == "source")) continue;
    if (table.rest)
      rest.children.push_back(child);
    else
      unknown_key(child, path, known);
  }
  for (const Entry& entry : table.entries) {
    const std::string at = join_path(path, entry.name);
    void* const value = entry.in(object);
    if (const Node* child = node.find(entry.name)) {
      entry.type->read(*this, *child, at, entry.rules, value);
    } else if (entry.required) {
      error(node.where(), fmt::format("missing key '{}'{}", entry.name, in_section(path)),
            entry.doc);
    } else {
      if (entry.standard) entry.type->assign(value, entry.standard.get());
      entry.type->absent(*this, value);
      if (entry.shape.kind != Shape::Kind::section || entry.shape.nullable) continue;
      Node empty;  // its required keys are missing, and its own sections have defaults too
      empty.mark = node.where();
      entry.type->read(*this, empty, at, entry.rules, value);
    }
  }
  if (table.rest) *static_cast<Node*>(at_offset(object, *table.rest)) = raw(rest, path);
  if (problems_.size() > before) return;
  for (const auto& check : table.checks) check(*this, node, path, object);
}

void Reader::map(const Node& node, const std::string& path,
                 const std::function<void(const Node&)>& each) {
  if (!node.is_map())
    return error(node.is_null() ? node.where() : node.mark,
                 labelled(path, fmt::format("expected a mapping, got {}", kind_text(node))));
  const Inherit scope(*this, node, path);
  for (const Node& child : node.children)
    if (!sources_required() || child.key != "source") each(child);
}

Node Reader::raw(const Node& node, const std::string& path) const {
  Node out = node;
  out.path = path;
  if (inherited_node_ != nullptr && out.is_map() && out.find("source") == nullptr)
    out.children.push_back(*inherited_node_);
  return out;
}

Node write_section(const Table& table, const void* object) {
  Node out = Node::map();
  for (const Entry& entry : table.entries)
    out.add(entry.name, entry.type->write(entry.in(object), entry.rules));
  if (!table.rest) return out;
  const Node& rest = *static_cast<const Node*>(at_offset(object, *table.rest));
  out.children.insert(out.children.end(), rest.children.begin(), rest.children.end());
  return out;
}

Node write_source(const Source& source) {
  Node out = Value<Source>::write(source, {});
  // Only what was given: an empty text or list says nothing.
  std::erase_if(out.children, [](const Node& n) {
    return n.is_null() || (n.is_scalar() && n.text.empty()) || (n.is_list() && n.children.empty());
  });
  return out;
}

}  // namespace detail
}  // namespace orrery
