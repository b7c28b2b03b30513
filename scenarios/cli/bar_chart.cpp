#include "scenarios/cli/bar_chart.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "backend/core/table.hpp"
#include "scenarios/cli/svg.hpp"

namespace orrery::cli {

namespace {

constexpr double width = 860, left = 190, bars_end = 620, bar = 14, between_rows = 10;

double largest(const BarChart& chart) {
  double most = 0;
  for (const BarRow& row : chart.rows)
    for (const Bar& one : row.bars)
      most = std::max({most, one.value.value_or(0), one.high.value_or(0)});
  return most;
}

std::string spread(const Bar& one, double y, double per_unit) {
  if (!one.low || !one.high || *one.low >= *one.high) return "";
  return fmt::format("<path class=\"spread\" d=\"M{:.1f} {:.1f}H{:.1f}\"/>\n",
                     left + *one.low * per_unit, y + bar / 2, left + *one.high * per_unit);
}

// "12.3 ms (+3.1 %)".
std::string value_text(const BarChart& chart, const Bar& one, const Bar& first, bool is_first) {
  if (!one.value) return "not known";
  std::string text = chart.text(*one.value);
  if (!is_first && first.value && *first.value > 0)
    text += " (" + format_signed_percent(*one.value / *first.value - 1) + ")";
  return text;
}

std::string bar_svg(const BarChart& chart, const BarRow& row, std::size_t i, double y,
                    double per_unit) {
  const Bar& one = row.bars[i];
  const double length = one.value.value_or(0) * per_unit;
  const double text_from = std::max(length, one.high.value_or(0) * per_unit) + left + 6;
  std::string out = fmt::format(
      "<rect class=\"c{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{:.1f}\" "
      "data-row=\"{}\" data-result=\"{}\" data-value=\"{}\"/>\n",
      i % series_colours.size(), left, y, length, bar - 2, escape_xml(row.name),
      escape_xml(chart.results[i]), one.value ? fmt::format("{}", *one.value) : "");
  out += spread(one, y - 1, per_unit);
  out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", text_from, y + bar - 4,
                     escape_xml(value_text(chart, one, row.bars[0], i == 0)));
  return out;
}

}  // namespace

std::string to_svg(const BarChart& chart) {
  const double most = largest(chart);
  const double per_unit = most > 0 ? (bars_end - left) / most : 0;
  double y = 4;
  std::string body;
  for (const BarRow& row : chart.rows) {
    const double middle = y + bar * static_cast<double>(row.bars.size()) / 2;
    body += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", left - 8,
                        middle + 4, escape_xml(row.label));
    for (std::size_t i = 0; i < row.bars.size(); ++i, y += bar)
      body += bar_svg(chart, row, i, y, per_unit);
    y += between_rows;
  }
  return fmt::format(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" "
             "role=\"img\" aria-label=\"{2}\">\n<title>{2}</title>\n",
             width, y, escape_xml(chart.title)) +
         body + "</svg>\n";
}

}  // namespace orrery::cli
