// Internal machinery of config.hpp: the table of registered keys without the C++ types, and the
// reader, dumper and schema writer that work on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backend/core/config_error.hpp"
#include "backend/core/config_tree.hpp"
#include "backend/core/source.hpp"
#include "backend/core/units_text.hpp"

namespace orrery {

// Whether every number of the document needs a source (platform files) or not (scenarios).
enum class Sources { optional, required };
// Foreign files, such as a Hugging Face config.json, have many keys that are not ours.
enum class UnknownKeys { error, ignore };

struct ReadOptions {
  Sources sources = Sources::optional;
  UnknownKeys unknown = UnknownKeys::error;
};

namespace detail {

class Reader;
struct Table;

// Limits on a field's value; for lists and maps they hold for each item.
struct Rules {
  std::optional<double> min, max;  // in base units
  bool above_min = false;          // min itself is excluded
  std::vector<std::string> allowed;
  std::vector<std::int64_t> enum_values;  // beside `allowed`, for C++ enums
  std::size_t min_items = 0;
};

// What a value looks like; for lists and maps `item` is what they hold.
struct Shape {
  enum class Kind { integer, number, boolean, string, quantity, section, list, map, any };
  Kind kind = Kind::any;
  Dimension unit = Dimension::none;
  bool nullable = false;
  bool sourced = false;
  std::vector<Shape> item;  // one or none
  const Table& (*section)() = nullptr;
};

// What can be done with values of one C++ type, by code that does not know it: see
// config_value.hpp.
struct ValueType {
  void (*read)(Reader&, const Node&, const std::string& path, const Rules&, void* value);
  void (*absent)(Reader&, void* value);
  Node (*write)(const void* value, const Rules&);
  void (*assign)(void* to, const void* from);
};

// A member of a struct, by its distance from the beginning in bytes.
inline void* at_offset(void* object, std::ptrdiff_t offset) {
  return static_cast<std::byte*>(object) + offset;
}
inline const void* at_offset(const void* object, std::ptrdiff_t offset) {
  return static_cast<const std::byte*>(object) + offset;
}
inline std::ptrdiff_t offset_of(const void* object, const void* member) {
  return static_cast<const std::byte*>(member) - static_cast<const std::byte*>(object);
}

// One registered key, a member of the struct.
struct Entry {
  std::string name;
  std::string doc;
  bool required = false;
  Shape shape;
  Rules rules;
  const ValueType* type = nullptr;
  std::ptrdiff_t offset = 0;             // of the member
  std::shared_ptr<const void> standard;  // its default, where that is not what it is made with

  void* in(void* object) const { return at_offset(object, offset); }
  const void* in(const void* object) const { return at_offset(object, offset); }
  void set_doc(std::string_view text);
  void allow(std::string_view name);
};

// All keys of one struct, in order of registration.
struct Table {
  const void* fresh = nullptr;  // a struct as its initialisers make it
  std::vector<Entry> entries;
  std::optional<std::ptrdiff_t> rest;  // offset of the Node for keys that are not registered

  Entry& add(std::string_view name, const ValueType& type, Shape shape, const void* member);
  void keep_rest(const void* member);
  Node default_value(const Entry& entry) const;
  std::vector<
      std::function<void(Reader&, const Node&, const std::string& path, const void* object)>>
      checks;
};

// A number's node and where it comes from.
struct Leaf {
  const Node* value = nullptr;  // nullptr: an error was reported
  std::optional<Source> source;
};

class Reader {
 public:
  Reader(Problems& problems, ReadOptions options) : problems_(problems), options_(options) {}

  bool sources_required() const { return options_.sources == Sources::required; }
  void error(const Mark& at, std::string text, std::string suggestion = "");

  // Each reads one scalar; false when it reported an error and left `out` alone.
  bool integer(const Node&, const std::string& path, const Rules&, std::int64_t& out);
  bool quantity(const Node&, const std::string& path, const Rules&, Dimension, double& out);
  bool bytes(const Node&, const std::string& path, const Rules&, Bytes& out);
  bool boolean(const Node&, const std::string& path, bool& out);
  bool string(const Node&, const std::string& path, const Rules&, std::string& out);
  // Index into `rules.allowed`.
  bool choice(const Node&, const std::string& path, const Rules&, std::size_t& out);

  // Looks through `{value, source}`, accepted when sources are required or `sourced` is set, and
  // finds the source that applies. A number without one is an error when sources are required.
  Leaf leaf(const Node&, const std::string& path, bool sourced, bool number);
  // The same problems and options, but numbers need no source.
  Reader without_sources() const;
  // The source of a value that the program supplied.
  static Source default_source();

  bool list(const Node&, const std::string& path, const Rules&);  // is it a list, long enough?
  void section(const Table&, const Node&, const std::string& path, void* object);
  // Calls `each` for every entry of a string-keyed map.
  void map(const Node&, const std::string& path, const std::function<void(const Node&)>& each);
  // The raw sub-tree, with its path and, when sources are required, the source it inherits.
  Node raw(const Node&, const std::string& path) const;

 private:
  class Inherit;

  bool scalar(const Node&, const std::string& path, const char* expected);
  bool in_range(const Node&, const std::string& path, const Rules&, double value, Dimension);
  std::optional<Source> source(const Node&, const std::string& path);
  void unknown_key(const Node& child, const std::string& path,
                   const std::vector<std::string>& known);

  Problems& problems_;
  ReadOptions options_;
  const Node* inherited_node_ = nullptr;  // the `source:` entry in force
  std::optional<Source> inherited_;
};

Node write_section(const Table&, const void* object);
Node write_source(const Source&);

// How a range is said to people: "at least 1, at most 8"; "" without limits.
std::string range_text(const Rules&, Dimension);

std::string json_schema_text(const Table&, const std::string& title, const ReadOptions&);
std::string key_reference_text(const Table&);

}  // namespace detail
}  // namespace orrery
