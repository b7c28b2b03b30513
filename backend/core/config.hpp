// Declarative configuration: one registration per key gives parsing, validation with positions,
// `--set`, JSON Schema, the resolved dump and the reference text.
//
//   struct Parallel {
//     std::int64_t tensor = 1;                 // the initialiser is the default
//     std::string schedule = "1f1b";
//   };
//   inline void describe(Fields<Parallel>& f) {          // beside the struct, in its namespace
//     f.field("tensor", &Parallel::tensor).at_least(1).doc("GPUs that share one layer");
//     f.field("schedule", &Parallel::schedule).one_of({"gpipe", "1f1b"}).doc("pipeline schedule");
//   }
//   struct Scenario { std::string model; Parallel parallel; std::optional<Bytes> bucket; Algorithm
//   algorithm; }; inline void describe(Fields<Scenario>& f) {
//     f.field("model", &Scenario::model).required().doc("name or path of a model");
//     f.section("parallel", &Scenario::parallel).doc("how the model is divided");
//     f.field("bucket", &Scenario::bucket).doc("bytes per all-reduce, such as 25MB");
//     f.section("algorithm", &Scenario::algorithm);
//   }
//
//   Document document = Document::parse_file("case.yaml");
//   document.set("parallel.tensor=8");
//   const auto scenario = read<Scenario>(document);       // throws ConfigError with every message
//
// A struct whose further keys belong to someone else keeps them as a tree, read when the owner is
// known; they still count as unknown if that owner does not know them:
//
//   struct Algorithm { std::string name; Node options; };
//   inline void describe(Fields<Algorithm>& f) {
//     f.field("name", &Algorithm::name).required();
//     f.rest(&Algorithm::options);
//   }
//   Problems problems(document);
//   auto scenario = read<Scenario>(document, problems);
//   auto zero = read<Zero>(scenario.algorithm.options, problems);
//   problems.throw_if_any();
//
// A field that may be a word or a list is `open` and told apart by hand: node.is_list() ?
// read<std::vector<std::string>>(node, problems) : ...
//
// Types of a field: integers, double, bool, std::string, enums (one_of gives the names), Bytes,
// Seconds, Flops, FlopsPerSecond, BytesPerSecond, Watts (text with a unit; not negative unless
// at_least allows it), structs with describe(), and of all these std::optional (null or absent),
// std::vector, std::map<std::string, T>, Sourced<T>; Node for anything. A struct must not contain
// itself.
#pragma once

#include <concepts>
#include <initializer_list>
#include <limits>
#include <map>
#include <memory>
#include <string_view>
#include <type_traits>
#include <utility>

#include "backend/core/config_table.hpp"
#include "backend/core/document.hpp"

namespace orrery {

template <class S>
class Fields;

// A struct that registered its keys. `describe` must be declared before the first use of the
// struct.
template <class T>
concept Described = std::is_class_v<T> && requires(Fields<T>& f) {
  describe(f);
};

}  // namespace orrery

#include "backend/core/config_value.hpp"

namespace orrery {

// One registered key; every call returns *this. M is the member's type.
template <class M>
class Field {
 public:
  using Scalar =
      typename detail::Value<M>::Scalar;  // what remains of M without optional, vector, ...

  explicit Field(detail::Entry& entry) : entry_(entry) {}

  Field& doc(std::string_view text) { return entry_.set_doc(text), *this; }
  Field& required() { return entry_.required = true, *this; }
  // Instead of the member's initialiser.
  Field& defaults(M value) {
    return entry_.standard = std::make_shared<const M>(std::move(value)), *this;
  }
  Field& at_least(Scalar bound) { return entry_.rules.min = detail::bound_of(bound), *this; }
  Field& at_most(Scalar bound) { return entry_.rules.max = detail::bound_of(bound), *this; }
  Field& between(Scalar low, Scalar high) { return at_least(low).at_most(high); }
  Field& above(Scalar bound) { return entry_.rules.above_min = true, at_least(bound); }
  Field& positive() { return above(Scalar{}); }
  // Of a list.
  Field& at_least_items(std::size_t count) { return entry_.rules.min_items = count, *this; }

  Field& one_of(
      std::initializer_list<const char*> names) requires std::same_as<Scalar, std::string> {
    for (const char* name : names) entry_.allow(name);
    return *this;
  }
  Field& one_of(std::vector<std::string> names) requires std::same_as<Scalar, std::string> {
    return entry_.rules.allowed = std::move(names), *this;
  }
  Field& one_of(
      std::initializer_list<std::pair<const char*, Scalar>> names) requires std::is_enum_v<Scalar> {
    for (const auto& [text, value] : names) {
      entry_.allow(text);
      entry_.rules.enum_values.push_back(static_cast<std::int64_t>(value));
    }
    return *this;
  }

 private:
  detail::Entry& entry_;
};

// Reports what is wrong between the fields of one section, at those fields.
class SectionProblems {
 public:
  SectionProblems(detail::Reader& reader, const Node& section, const std::string& path)
      : reader_(reader), section_(section), path_(path) {}

  // At the entry with this key, else at the section.
  void add(const std::string& key, const std::string& text,
           const std::string& suggestion = "") const {
    const Node* found = section_.find(key);
    reader_.error(found ? found->where() : section_.where(), join_path(path_, key) + ": " + text,
                  suggestion);
  }

 private:
  detail::Reader& reader_;
  const Node& section_;
  const std::string& path_;
};

template <class S>
class Fields {
 public:
  explicit Fields(detail::Table& table) : table_(table) { table.fresh = &fresh(); }

  template <class M>
  Field<M> field(std::string_view name, M S::*member) {
    return Field<M>(
        table_.add(name, detail::value_type<M>, detail::Value<M>::shape(), &(fresh().*member)));
  }

  // The same, saying what kind of value it is.
  template <Described M>
  Field<M> section(std::string_view name, M S::*member) {
    return field(name, member);
  }
  template <Described M>
  Field<std::optional<M>> section(std::string_view name, std::optional<M> S::*member) {
    return field(name, member);
  }
  template <class T>
  Field<std::vector<T>> list(std::string_view name, std::vector<T> S::*member) {
    return field(name, member);
  }
  template <class T>
  Field<std::map<std::string, T>> map(std::string_view name, std::map<std::string, T> S::*member) {
    return field(name, member);
  }
  // Any tree, kept as it is for a later reader.
  Field<Node> open(std::string_view name, Node S::*member) { return field(name, member); }

  // All keys that are not registered, as one mapping for a later reader.
  void rest(Node S::*member) { table_.keep_rest(&(fresh().*member)); }

  // A relation between fields, checked once all of them could be read:
  //   f.check([](const Data& d, const SectionProblems& p) {
  //     if (d.batch % d.micro_batch != 0) p.add("micro_batch", "does not divide batch");
  //   });
  template <class Check>
  void check(Check check) {
    table_.checks.push_back(
        [check](detail::Reader& r, const Node& node, const std::string& path, const void* object) {
          check(*static_cast<const S*>(object), SectionProblems(r, node, path));
        });
  }

 private:
  static const S& fresh() {
    static const S object{};
    return object;
  }

  detail::Table& table_;
};

namespace detail {

template <class S>
const Table& table_of() {
  static const Table table = [] {
    Table fresh;
    Fields<S> fields(fresh);
    describe(fields);
    return fresh;
  }();
  return table;
}

}  // namespace detail

// Reads a value of any field type from a node that a reader handed out. Problems are collected; the
// value is meaningful only if none were added.
template <class T>
T read(const Node& node, Problems& problems, ReadOptions options = {}) {
  T value{};
  detail::Reader reader(problems, options);
  detail::Value<T>::read(reader, node, node.path, {}, value);
  return value;
}

// Reads a document. Problems may be new or made from this document.
template <class T>
T read(const Document& document, Problems& problems, ReadOptions options = {}) {
  problems.attach(document);
  return read<T>(document.root(), problems, options);
}

// Throws ConfigError with everything that is wrong.
template <class T>
T read(const Document& document, ReadOptions options = {}) {
  Problems problems;
  T value = read<T>(document, problems, options);
  problems.throw_if_any();
  return value;
}

// The value as a tree, defaults included, and as YAML that reads back to the same value.
template <class T>
Node to_node(const T& value) {
  return detail::Value<T>::write(value, {});
}
template <class T>
std::string resolved_yaml(const T& value) {
  return to_yaml(to_node(value));
}

// JSON Schema (draft 7) of documents that read<T> accepts.
template <Described T>
std::string json_schema(const std::string& title, ReadOptions options = {}) {
  return detail::json_schema_text(detail::table_of<T>(), title, options);
}
// One Markdown table row per key: path, type, default, range, meaning.
template <Described T>
std::string key_reference() {
  return detail::key_reference_text(detail::table_of<T>());
}

}  // namespace orrery
