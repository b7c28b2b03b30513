// Figures of several results as bars side by side, in SVG that stands in a page.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace orrery::cli {

// Of one result. Drawn by the page's colours: its classes are c0, c1, …
struct Bar {
  std::optional<double> value, low, high;  // with a stroke from low to high where both are known
};

struct BarRow {
  std::string name;       // its key
  std::string label;      // what people read
  std::vector<Bar> bars;  // by result
};

struct BarChart {
  std::string title;
  std::vector<std::string> results;  // what a bar is of, by place
  std::vector<BarRow> rows;
  std::string (*text)(double);  // of a value, with its unit
};

// Bars of all rows have one scale, from 0 to the largest. Behind each is its value, and from the
// second on by how much it is off the first. Each rectangle carries `data-row`, `data-result` and
// `data-value`, the number in full.
std::string to_svg(const BarChart& chart);

}  // namespace orrery::cli
