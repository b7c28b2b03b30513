// Where a number comes from. Every number of a platform file has a source, so that a result can
// list which of the figures behind it were measured and which were assumed.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "backend/core/config_tree.hpp"

namespace orrery {

template <class S>
class Fields;

enum class SourceKind { datasheet, measured, fitted, assumed };

const char* name(SourceKind);

struct Source {
  SourceKind kind = SourceKind::assumed;
  std::string document, table;                // datasheet: both are needed
  std::string date, device, driver, command;  // measured: all four are needed
  std::vector<std::string> cases;             // fitted: what it was fitted on, needed
  std::optional<double> residual;             // fitted: relative error that remained, needed
  std::string note;

  bool operator==(const Source&) const = default;
};

void describe(Fields<Source>&);

// A value with its source, written `2.039TBps` or `{value: 2.039TBps, source: {kind: ...}}`. A bare
// value inherits the nearest `source:` of the mappings around it. No source: the document did not
// require one.
template <class T>
struct Sourced {
  T value{};
  std::optional<Source> source;
  Mark mark;

  Sourced() = default;
  explicit Sourced(T v) : value(std::move(v)) {}
  bool operator==(const Sourced& o) const { return value == o.value && source == o.source; }
};

}  // namespace orrery
