#include "backend/core/table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include "backend/core/error.hpp"

namespace orrery {

namespace {

// The code point at the start of `text` and its length; an invalid byte stands for itself.
struct Letter {
  char32_t code;
  std::size_t size;
};

Letter first_letter(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  const std::size_t size = lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  if (size == 1 || size > text.size()) return {lead, 1};
  char32_t code = lead & (0x7FU >> size);
  for (std::size_t i = 1; i < size; ++i) code = code << 6 | (byte(i) & 0x3FU);
  return {code, size};
}

std::size_t width_of(char32_t c) {
  const auto within = [c](char32_t low, char32_t high) { return c >= low && c <= high; };
  if (within(0x300, 0x36F) || within(0x200B, 0x200F) || within(0xFE00, 0xFE0F)) return 0;
  const bool wide = within(0x1100, 0x115F) || within(0x2E80, 0xA4CF) || within(0xAC00, 0xD7A3) ||
                    within(0xF900, 0xFAFF) || within(0xFE30, 0xFE6F) || within(0xFF00, 0xFF60) ||
                    within(0xFFE0, 0xFFE6) || within(0x1F300, 0x1FAFF) || within(0x20000, 0x3FFFD);
  return wide ? 2 : 1;
}

// Three significant digits; values from 1000 up keep all their digits.
std::string three_digits(double value) {
  const double size = std::abs(value);
  const int decimals = size < 9.995 ? 2 : size < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f}", value, decimals);
}

struct Step {
  double size;
  const char* name;
};

// In the largest step that leaves at least 1 after rounding; steps ascend.
std::string in_steps(double value, std::span<const Step> steps) {
  if (!std::isfinite(value)) return fmt::format("{}", value);
  const Step* best = &steps.front();
  for (const Step& step : steps)
    if (std::abs(value) >= step.size * 0.9995) best = &step;
  if (value == 0) return fmt::format("0{}", best->name);
  return three_digits(value / best->size) + best->name;
}

}  // namespace

std::size_t display_width(std::string_view text) {
  std::size_t width = 0;
  while (!text.empty()) {
    const Letter letter = first_letter(text);
    width += width_of(letter.code);
    text.remove_prefix(letter.size);
  }
  return width;
}

TextTable& TextTable::column(std::string title, std::string unit) {
  columns_.push_back({std::move(title), std::move(unit), false});
  return *this;
}

TextTable& TextTable::left(std::string title, std::string unit) {
  columns_.push_back({std::move(title), std::move(unit), true});
  return *this;
}

void TextTable::row(std::vector<std::string> cells) {
  ORRERY_ASSERT(cells.size() == columns_.size() && !cells.empty(),
                "a table row has one cell per column");
  rows_.push_back(std::move(cells));
}

void TextTable::rule() { rows_.emplace_back(); }

std::string TextTable::text() const {
  std::vector<std::vector<std::string>> lines(1);
  bool units = false;
  for (const Column& column : columns_) {
    lines[0].push_back(column.title);
    units = units || !column.unit.empty();
  }
  if (units) {
    lines.emplace_back();
    for (const Column& column : columns_) lines[1].push_back(column.unit);
  }
  lines.emplace_back();
  lines.insert(lines.end(), rows_.begin(), rows_.end());

  std::vector<std::size_t> widths(columns_.size(), 0);
  for (const auto& line : lines)
    for (std::size_t i = 0; i < line.size(); ++i)
      widths[i] = std::max(widths[i], display_width(line[i]));
  std::string out;
  for (const auto& line : lines) {
    std::string shown;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      if (i > 0) shown += "  ";
      const std::string cell = line.empty() ? std::string(widths[i], '-') : line[i];
      const std::string space(widths[i] - display_width(cell), ' ');
      shown += columns_[i].left ? cell + space : space + cell;
    }
    shown.erase(shown.find_last_not_of(' ') + 1);
    out += shown + '\n';
  }
  return out;
}

std::string format_seconds(Seconds seconds) {
  static constexpr std::array<Step, 5> steps{
      {{1e-12, " ps"}, {1e-9, " ns"}, {1e-6, " us"}, {1e-3, " ms"}, {1, " s"}}};
  const double s = seconds.value;
  if (s == 0) return "0 s";
  if (!(std::abs(s) >= 59.95) || !std::isfinite(s)) return in_steps(s, steps);
  const char* sign = s < 0 ? "-" : "";
  const double rounded = std::round(std::abs(s));
  if (rounded < 3600)
    return fmt::format("{}{:.0f} min {:.0f} s", sign, std::floor(rounded / 60),
                       std::fmod(rounded, 60));
  const double minutes = std::round(std::abs(s) / 60);
  if (minutes < 1440)
    return fmt::format("{}{:.0f} h {:.0f} min", sign, std::floor(minutes / 60),
                       std::fmod(minutes, 60));
  return three_digits(s / 86400) + " d";
}

std::string format_bytes(Bytes bytes) {
  static constexpr std::array<Step, 6> steps{{{1, " B"},
                                              {1024., " KiB"},
                                              {1048576., " MiB"},
                                              {1073741824., " GiB"},
                                              {1099511627776., " TiB"},
                                              {1125899906842624., " PiB"}}};
  if (bytes.value > -1000 && bytes.value < 1000) return fmt::format("{} B", bytes.value);
  return in_steps(static_cast<double>(bytes.value), steps);
}

std::string format_count(double count) {
  static constexpr std::array<Step, 5> steps{
      {{1, ""}, {1e3, " K"}, {1e6, " M"}, {1e9, " B"}, {1e12, " T"}}};
  if (std::abs(count) < 1000 && count == std::round(count)) return fmt::format("{:.0f}", count);
  return in_steps(count, steps);
}

std::string format_thousands(std::int64_t value) {
  std::string digits = std::to_string(value);
  const std::size_t start = value < 0 ? 1 : 0;
  for (std::size_t i = digits.size(); i > start + 3; i -= 3) digits.insert(i - 3, ",");
  return digits;
}

std::string format_percent(double fraction) { return fmt::format("{:.1f} %", fraction * 100); }
std::string format_signed_percent(double fraction) {
  return fmt::format("{:+.1f} %", fraction * 100);
}

namespace {
constexpr std::array<Step, 7> metric{
    {{1, " "}, {1e3, " k"}, {1e6, " M"}, {1e9, " G"}, {1e12, " T"}, {1e15, " P"}, {1e18, " E"}}};
}

std::string format_rate(FlopsPerSecond rate) { return in_steps(rate.value, metric) + "FLOPS"; }
std::string format_bandwidth(BytesPerSecond rate) { return in_steps(rate.value, metric) + "B/s"; }

}  // namespace orrery
