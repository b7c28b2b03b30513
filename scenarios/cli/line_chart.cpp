#include "scenarios/cli/line_chart.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "scenarios/cli/svg.hpp"

namespace orrery::cli {

namespace {

constexpr double x_end = 610, height = 480, left = 70, top = 20, bottom = 50;
struct Range {
  double low = 0, high = 1;
  bool logarithmic = false;
  double at(double value, double from, double to) const {
    const double part =
        logarithmic ? std::log(value / low) / std::log(high / low) : (value - low) / (high - low);
    return from + part * (to - from);
  }
};

Range range_of(const std::vector<Line>& lines, std::vector<double> Line::*member,
               std::optional<double> too) {
  std::vector<double> all;
  for (const Line& line : lines)
    std::copy_if((line.*member).begin(), (line.*member).end(), std::back_inserter(all),
                 [](double v) { return std::isfinite(v); });
  if (too) all.push_back(*too);
  if (all.empty()) return {};
  const auto [low, high] = std::minmax_element(all.begin(), all.end());
  return {*low, *high > *low ? *high : *low + 1};
}

// Of x: where one line ends long before another, it would be a stroke at the edge, but for
// logarithms.
Range x_range(const std::vector<Line>& lines) {
  constexpr double long_before = 8;
  Range range = range_of(lines, &Line::x, std::nullopt);
  double soonest = range.high;
  for (const Line& line : lines)
    if (!line.x.empty()) soonest = std::min(soonest, line.x.back());
  range.logarithmic = range.low > 0 && range.high > long_before * soonest;
  return range.logarithmic ? range : range_of(lines, &Line::x, 0);
}

// Powers of ten in the range, and between them where they are few.
std::vector<double> logarithmic_ticks(const Range& range) {
  const bool few = range.high < 1000 * range.low;
  std::vector<double> out;
  for (int power = static_cast<int>(std::floor(std::log10(range.low)));
       std::pow(10, power) <= range.high; ++power)
    for (const double nice : few ? std::vector<double>{1, 2, 5} : std::vector<double>{1})
      if (const double v = nice * std::pow(10, power); v >= range.low && v <= range.high)
        out.push_back(v);
  return out;
}

// About five round numbers in the range.
std::vector<double> ticks(const Range& range) {
  if (range.logarithmic) return logarithmic_ticks(range);
  const double rough = (range.high - range.low) / 5;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double nice : {1.0, 2.0, 5.0})
    if (nice * power >= rough) {
      step = nice * power;
      break;
    }
  std::vector<double> out;
  for (double v = std::ceil(range.low / step) * step; v <= range.high; v += step) out.push_back(v);
  return out;
}

std::string text(double x, double y, const char* anchor, const std::string& words) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor,
                     escape_xml(words));
}

// Enough for the names at the right of the lines, in twelve points.
double width_for(const std::vector<Line>& lines) {
  std::size_t longest = 0;
  for (const Line& line : lines) longest = std::max(longest, line.name.size());
  return x_end + 55 + 6.8 * static_cast<double>(longest);
}

std::string stroke(double x1, double y1, double x2, double y2, const char* style) {
  return fmt::format("<path d=\"M{:.1f} {:.1f}L{:.1f} {:.1f}\" {}/>\n", x1, y1, x2, y2, style);
}

}  // namespace

std::string to_svg(const LineChart& chart) {
  const Range xs = x_range(chart.lines), ys = range_of(chart.lines, &Line::y, chart.level);
  const double width = width_for(chart.lines), y_end = height - bottom;
  const auto px = [&](double v) { return xs.at(v, left, x_end); };
  const auto py = [&](double v) { return ys.at(v, y_end, top); };
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1}\" width=\"{0:.0f}\" "
      "height=\"{1}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n"
      "<rect width=\"{0:.0f}\" height=\"{1}\" fill=\"white\"/>\n",
      width, height);
  constexpr const char* grid = "stroke=\"#ddd\" fill=\"none\"";
  for (const double v : ticks(xs))
    out += stroke(px(v), top, px(v), y_end, grid) +
           text(px(v), y_end + 18, "middle", fmt::format("{:g}", v));
  for (const double v : ticks(ys))
    out += stroke(left, py(v), x_end, py(v), grid) +
           text(left - 8, py(v) + 4, "end", fmt::format("{:g}", v));
  if (chart.level)
    out += stroke(left, py(*chart.level), x_end, py(*chart.level),
                  "stroke=\"#222\" stroke-dasharray=\"4 4\" fill=\"none\"");
  std::vector<std::string> names;
  for (const Line& line : chart.lines) {
    const auto named = std::find(names.begin(), names.end(), line.name);
    const auto i = static_cast<std::size_t>(named - names.begin());
    const bool first = named == names.end();
    if (first) names.push_back(line.name);
    const char* colour = series_colours[i % series_colours.size()];
    std::string path;
    for (std::size_t k = 0; k < line.x.size() && std::isfinite(line.y[k]); ++k)
      path += fmt::format("{}{:.1f} {:.1f}", k == 0 ? "M" : "L", px(line.x[k]), py(line.y[k]));
    out += fmt::format("<path d=\"{}\" stroke=\"{}\" stroke-width=\"1.5\" fill=\"none\"/>\n", path,
                       colour);
    if (!first) continue;
    const double y = top + 10 + 18 * static_cast<double>(i);
    out += stroke(x_end + 12, y, x_end + 34, y,
                  fmt::format("stroke=\"{}\" stroke-width=\"3\"", colour).c_str());
    out += text(x_end + 40, y + 4, "start", line.name);
  }
  out += text((left + x_end) / 2, height - 12, "middle",
              chart.x_label + (xs.logarithmic ? ", logarithmic" : ""));
  out += fmt::format(
      "<text transform=\"translate(18 {:.1f}) rotate(-90)\" "
      "text-anchor=\"middle\">{}</text>\n",
      (top + y_end) / 2, escape_xml(chart.y_label));
  return out + "</svg>\n";
}

}  // namespace orrery::cli
