// Internal to config.hpp: how each C++ type is read, written and described. One specialisation of
// Value per kind of type, with
//   Scalar                            what bounds and one_of refer to
//   read(reader, node, path, rules, out)
//   absent(reader, out)               what is left to do for a key that was not given
//   write(value, rules)               the tree that reads back to the value
//   shape()                           for schema and reference
#pragma once

namespace orrery::detail {

template <class S>
const Table& table_of();

template <class T>
struct Value;

template <class T>
double bound_of(const T& bound) {
  if constexpr (std::is_arithmetic_v<T>)
    return static_cast<double>(bound);
  else
    return static_cast<double>(bound.value);
}

struct PlainValue {
  static Shape shape(Shape::Kind kind, Dimension unit = Dimension::none) {
    Shape s;
    s.kind = kind;
    s.unit = unit;
    return s;
  }
};

template <class T>
requires(std::integral<T> && !std::same_as<T, bool>) struct Value<T> : PlainValue {
  using Scalar = T;
  static void read(Reader& r, const Node& node, const std::string& path, const Rules& rules,
                   T& out) {
    const Leaf leaf = r.leaf(node, path, false, true);
    std::int64_t value = 0;
    if (leaf.value == nullptr || !r.integer(*leaf.value, path, rules, value)) return;
    if (std::in_range<T>(value))
      out = static_cast<T>(value);
    else
      r.error(leaf.value->mark, path + ": " + leaf.value->text + " is out of range");
  }
  static void absent(Reader&, T&) {}
  static Node write(const T& value, const Rules&) { return Node::scalar(std::to_string(value)); }
  static Shape shape() { return PlainValue::shape(Shape::Kind::integer); }
};

template <>
struct Value<double> : PlainValue {
  using Scalar = double;
  static void read(Reader& r, const Node& node, const std::string& path, const Rules& rules,
                   double& out) {
    const Leaf leaf = r.leaf(node, path, false, true);
    if (leaf.value != nullptr) r.quantity(*leaf.value, path, rules, Dimension::none, out);
  }
  static void absent(Reader&, double&) {}
  static Node write(const double& value, const Rules&) { return Node::scalar(number_text(value)); }
  static Shape shape() { return PlainValue::shape(Shape::Kind::number); }
};

template <>
struct Value<bool> : PlainValue {
  using Scalar = bool;
  static void read(Reader& r, const Node& node, const std::string& path, const Rules&, bool& out) {
    r.boolean(node, path, out);
  }
  static void absent(Reader&, bool&) {}
  static Node write(const bool& value, const Rules&) {
    return Node::scalar(value ? "true" : "false");
  }
  static Shape shape() { return PlainValue::shape(Shape::Kind::boolean); }
};

template <>
struct Value<std::string> : PlainValue {
  using Scalar = std::string;
  static void read(Reader& r, const Node& node, const std::string& path, const Rules& rules,
                   std::string& out) {
    r.string(node, path, rules, out);
  }
  static void absent(Reader&, std::string&) {}
  static Node write(const std::string& value, const Rules&) { return Node::scalar(value, true); }
  static Shape shape() { return PlainValue::shape(Shape::Kind::string); }
};

template <class T>
requires std::is_enum_v<T>
struct Value<T> : PlainValue {
  using Scalar = T;
  static void read(Reader& r, const Node& node, const std::string& path, const Rules& rules,
                   T& out) {
    std::size_t index = 0;
    if (r.choice(node, path, rules, index)) out = static_cast<T>(rules.enum_values.at(index));
  }
  static void absent(Reader&, T&) {}
  static Node write(const T& value, const Rules& rules) {
    for (std::size_t i = 0; i < rules.enum_values.size(); ++i)
      if (rules.enum_values[i] == static_cast<std::int64_t>(value))
        return Node::scalar(rules.allowed[i]);
    return Node();
  }
  static Shape shape() { return PlainValue::shape(Shape::Kind::string); }
};

template <>
struct Value<Bytes> : PlainValue {
  using Scalar = Bytes;
  static void read(Reader& r, const Node& node, const std::string& path, const Rules& rules,
                   Bytes& out) {
    const Leaf leaf = r.leaf(node, path, false, true);
    if (leaf.value != nullptr) r.bytes(*leaf.value, path, rules, out);
  }
  static void absent(Reader&, Bytes&) {}
  static Node write(const Bytes& value, const Rules&) { return Node::scalar(quantity_text(value)); }
  static Shape shape() { return PlainValue::shape(Shape::Kind::quantity, Dimension::bytes); }
};

template <class Tag>
constexpr Dimension unit_of(Quantity<Tag>) {
  using Q = Quantity<Tag>;
  if constexpr (std::same_as<Q, Seconds>)
    return Dimension::seconds;
  else if constexpr (std::same_as<Q, Flops>)
    return Dimension::flops;
  else if constexpr (std::same_as<Q, FlopsPerSecond>)
    return Dimension::flops_per_second;
  else if constexpr (std::same_as<Q, BytesPerSecond>)
    return Dimension::bytes_per_second;
  else
    return Dimension::watts;
}

template <class Tag>
struct Value<Quantity<Tag>> : PlainValue {
  using Scalar = Quantity<Tag>;
  static constexpr Dimension unit = unit_of(Scalar{});
  static void read(Reader& r, const Node& node, const std::string& path, const Rules& rules,
                   Scalar& out) {
    const Leaf leaf = r.leaf(node, path, false, true);
    if (leaf.value != nullptr) r.quantity(*leaf.value, path, rules, unit, out.value);
  }
  static void absent(Reader&, Scalar&) {}
  static Node write(const Scalar& value, const Rules&) {
    return Node::scalar(quantity_text(value));
  }
  static Shape shape() { return PlainValue::shape(Shape::Kind::quantity, unit); }
};

template <>
struct Value<Node> : PlainValue {
  using Scalar = Node;
  static void read(Reader& r, const Node& node, const std::string& path, const Rules&, Node& out) {
    out = r.raw(node, path);
  }
  static void absent(Reader&, Node&) {}
  static Node write(const Node& value, const Rules&) { return value; }
  static Shape shape() { return PlainValue::shape(Shape::Kind::any); }
};

template <Described T>
struct Value<T> : PlainValue {
  using Scalar = T;
  static void read(Reader& r, const Node& node, const std::string& path, const Rules&, T& out) {
    r.section(table_of<T>(), node, path, &out);
  }
  static void absent(Reader&, T&) {}
  static Node write(const T& value, const Rules&) { return write_section(table_of<T>(), &value); }
  static Shape shape() {
    Shape s = PlainValue::shape(Shape::Kind::section);
    s.section = &table_of<T>;
    return s;
  }
};

template <class T>
struct Value<std::optional<T>> {
  using Scalar = typename Value<T>::Scalar;
  static void read(Reader& r, const Node& node, const std::string& path, const Rules& rules,
                   std::optional<T>& out) {
    out.reset();
    if (!node.is_null()) Value<T>::read(r, node, path, rules, out.emplace());
  }
  static void absent(Reader&, std::optional<T>&) {}
  static Node write(const std::optional<T>& value, const Rules& rules) {
    return value ? Value<T>::write(*value, rules) : Node();
  }
  static Shape shape() {
    Shape s = Value<T>::shape();
    s.nullable = true;
    return s;
  }
};

template <class T>
struct Value<std::vector<T>> {
  using Scalar = typename Value<T>::Scalar;
  static void read(Reader& r, const Node& node, const std::string& path, const Rules& rules,
                   std::vector<T>& out) {
    out.clear();
    if (!r.list(node, path, rules)) return;
    for (std::size_t i = 0; i < node.children.size(); ++i) {
      T item{};
      Value<T>::read(r, node.children[i], join_path(path, i), rules, item);
      out.push_back(std::move(item));
    }
  }
  static void absent(Reader&, std::vector<T>&) {}
  static Node write(const std::vector<T>& value, const Rules& rules) {
    Node out = Node::list();
    for (const T& item : value) out.children.push_back(Value<T>::write(item, rules));
    return out;
  }
  static Shape shape() {
    return {Shape::Kind::list, Dimension::none, false, false, {Value<T>::shape()}, nullptr};
  }
};

template <class T>
struct Value<std::map<std::string, T>> {
  using Scalar = typename Value<T>::Scalar;
  static void read(Reader& r, const Node& node, const std::string& path, const Rules& rules,
                   std::map<std::string, T>& out) {
    out.clear();
    r.map(node, path, [&](const Node& child) {
      T item{};
      Value<T>::read(r, child, join_path(path, child.key), rules, item);
      out.emplace(child.key, std::move(item));
    });
  }
  static void absent(Reader&, std::map<std::string, T>&) {}
  static Node write(const std::map<std::string, T>& value, const Rules& rules) {
    Node out = Node::map();
    for (const auto& [key, item] : value) out.add(key, Value<T>::write(item, rules));
    return out;
  }
  static Shape shape() {
    return {Shape::Kind::map, Dimension::none, false, false, {Value<T>::shape()}, nullptr};
  }
};

template <class T>
struct Value<Sourced<T>> {
  using Scalar = typename Value<T>::Scalar;
  static void read(Reader& r, const Node& node, const std::string& path, const Rules& rules,
                   Sourced<T>& out) {
    const Leaf leaf =
        r.leaf(node, path, true, !std::same_as<T, std::string> && !std::same_as<T, bool>);
    if (leaf.value == nullptr) return;
    out.source = leaf.source;
    out.mark = leaf.value->mark;
    Reader plain = r.without_sources();
    Value<T>::read(plain, *leaf.value, path, rules, out.value);
  }
  static void absent(Reader& r, Sourced<T>& out) {
    if (r.sources_required() && !out.source) out.source = Reader::default_source();
  }
  static Node write(const Sourced<T>& value, const Rules& rules) {
    Node bare = Value<T>::write(value.value, rules);
    if (!value.source) return bare;
    Node out = Node::map();
    out.add("value", std::move(bare));
    out.add("source", write_source(*value.source));
    return out;
  }
  static Shape shape() {
    Shape s = Value<T>::shape();
    s.sourced = true;
    return s;
  }
};

// The same without the type.
template <class T>
inline constexpr ValueType value_type{
    [](Reader& r, const Node& node, const std::string& path, const Rules& rules, void* value) {
      Value<T>::read(r, node, path, rules, *static_cast<T*>(value));
    },
    [](Reader& r, void* value) { Value<T>::absent(r, *static_cast<T*>(value)); },
    [](const void* value, const Rules& rules) {
      return Value<T>::write(*static_cast<const T*>(value), rules);
    },
    [](void* to, const void* from) { *static_cast<T*>(to) = *static_cast<const T*>(from); }};

}  // namespace orrery::detail
