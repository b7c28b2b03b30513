// A chart of lines as SVG.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace orrery::cli {

struct Line {
  std::string name;
  std::vector<double> x, y;  // as many of each; drawn up to the first y that is no number
};

struct LineChart {
  std::string x_label, y_label;
  std::vector<Line> lines;
  std::optional<double> level;  // a horizontal line to compare with
};

// Lines of one name have one colour, and one place in the legend. Axes from the smallest to the
// largest number of the lines, that of x from 0, or logarithmic where some line ends long before
// another; ticks at round numbers; wide enough for the names. The same bytes for the same chart.
std::string to_svg(const LineChart& chart);

}  // namespace orrery::cli
