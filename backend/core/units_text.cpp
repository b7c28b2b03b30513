#include "backend/core/units_text.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <span>

namespace orrery {

namespace {

// One spelling of a unit: value = number * 10^exponent * factor.
struct Spelling {
  std::string_view text;
  int exponent;
  double factor;
};

struct Prefix {
  std::string_view text;
  int exponent;
  double factor;
};
constexpr std::array<Prefix, 11> prefixes{{{"", 0, 1},
                                           {"k", 3, 1},
                                           {"M", 6, 1},
                                           {"G", 9, 1},
                                           {"T", 12, 1},
                                           {"P", 15, 1},
                                           {"E", 18, 1},
                                           {"Ki", 0, 1024.0},
                                           {"Mi", 0, 1048576.0},
                                           {"Gi", 0, 1073741824.0},
                                           {"Ti", 0, 1099511627776.0}}};
constexpr std::span<const Prefix> decimal_prefixes{prefixes.data(), 7};
constexpr std::array<Spelling, 2> byte_units{{{"B", 0, 1}, {"b", 0, 0.125}}};
constexpr std::array<Spelling, 4> rate_units{
    {{"Bps", 0, 1}, {"bps", 0, 0.125}, {"B/s", 0, 1}, {"b/s", 0, 0.125}}};
constexpr std::array<Spelling, 1> flop_units{{{"FLOP", 0, 1}}};
constexpr std::array<Spelling, 2> flop_rate_units{{{"FLOPS", 0, 1}, {"FLOP/s", 0, 1}}};
constexpr std::array<Spelling, 7> time_units{{{"s", 0, 1},
                                              {"ms", -3, 1},
                                              {"us", -6, 1},
                                              {"ns", -9, 1},
                                              {"ps", -12, 1},
                                              {"min", 0, 60},
                                              {"h", 0, 3600}}};
constexpr std::array<Spelling, 3> power_units{{{"W", 0, 1}, {"kW", 3, 1}, {"MW", 6, 1}}};

struct UnitRow {
  const char* example;
  const char* description;
  const char* pattern;  // after the number
  std::span<const Prefix> prefixes;
  std::span<const Spelling> spellings;
};

#define ORRERY_NUMBER_PATTERN "^[+-]?([0-9]+(\\.[0-9]*)?|\\.[0-9]+)([eE][+-]?[0-9]+)? ?"
const std::array<UnitRow, 7> unit_rows{
    {{"1", "a number", ORRERY_NUMBER_PATTERN "$", {}, {}},
     {"25GB", "a size such as 25GB", ORRERY_NUMBER_PATTERN "([kMGTPE]|[KMGT]i)?[Bb]$", prefixes,
      byte_units},
     {"25GBps", "a bandwidth such as 25GBps or 200Gbps",
      ORRERY_NUMBER_PATTERN "([kMGTPE]|[KMGT]i)?[Bb](ps|/s)$", prefixes, rate_units},
     {"312TFLOP", "an amount of work such as 312TFLOP", ORRERY_NUMBER_PATTERN "[kMGTPE]?FLOP$",
      decimal_prefixes, flop_units},
     {"312TFLOPS", "a compute rate such as 312TFLOPS", ORRERY_NUMBER_PATTERN "[kMGTPE]?FLOP(S|/s)$",
      decimal_prefixes, flop_rate_units},
     {"5us", "a time such as 5us or 2.5ms", ORRERY_NUMBER_PATTERN "(ps|ns|us|ms|s|min|h)$",
      decimal_prefixes.first(1), time_units},
     {"700W", "a power such as 700W", ORRERY_NUMBER_PATTERN "(W|kW|MW)$", decimal_prefixes.first(1),
      power_units}}};
#undef ORRERY_NUMBER_PATTERN

const UnitRow& row(Dimension unit) { return unit_rows.at(static_cast<std::size_t>(unit)); }

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// A decimal number split into its significant digits and a power of ten.
struct Decimal {
  std::string_view text;  // the characters of the number
  bool negative = false;
  std::string digits;      // without leading zeros; empty for zero
  int exponent = 0;        // value = digits * 10^exponent
  bool whole_form = true;  // neither '.' nor exponent was written
  bool leading_zero = false;
};

// Reads the exponent part at the start of `rest`; its length, or 0 when there is none.
std::size_t scan_exponent(std::string_view rest, int& exponent) {
  if (rest.empty() || (rest[0] != 'e' && rest[0] != 'E')) return 0;
  std::size_t at = 1;
  const bool negative = at < rest.size() && rest[at] == '-';
  if (at < rest.size() && (rest[at] == '+' || rest[at] == '-')) ++at;
  if (at >= rest.size() || !is_digit(rest[at])) return 0;
  int value = 0;
  for (; at < rest.size() && is_digit(rest[at]); ++at)
    value = std::min(value * 10 + (rest[at] - '0'), 100000);
  exponent = negative ? -value : value;
  return at;
}

// The number at the start of `text`, or nothing.
std::optional<Decimal> scan_decimal(std::string_view text) {
  Decimal out;
  std::size_t at = 0;
  if (!text.empty() && (text[0] == '+' || text[0] == '-')) out.negative = text[at++] == '-';
  const std::size_t start = at;
  std::size_t count = 0;
  bool point = false;
  for (; at < text.size() && (is_digit(text[at]) || (text[at] == '.' && !point)); ++at) {
    if (text[at] == '.') {
      point = true;
      continue;
    }
    ++count;
    if (point) --out.exponent;
    if (text[at] != '0' || !out.digits.empty()) out.digits += text[at];
  }
  if (count == 0) return std::nullopt;
  out.leading_zero = at - start > 1 && text[start] == '0' && is_digit(text[start + 1]);
  int exponent = 0;
  const std::size_t n = scan_exponent(text.substr(at), exponent);
  out.whole_form = !point && n == 0;
  out.exponent += exponent;
  out.text = text.substr(0, at + n);
  while (!out.digits.empty() && out.digits.back() == '0') {
    out.digits.pop_back();
    ++out.exponent;
  }
  if (out.digits.empty()) out.exponent = 0;
  return out;
}

// digits * 10^(exponent + shift), correctly rounded; infinite when too large.
double to_double(const Decimal& d, int shift) {
  if (d.digits.empty()) return 0;
  const std::string text = fmt::format("{}e{}", d.digits, d.exponent + shift);
  double value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec == std::errc::result_out_of_range)
    value = d.exponent + shift > 0 ? std::numeric_limits<double>::infinity() : 0;
  return d.negative ? -value : value;
}

using Wide = __int128;

// digits * 10^exponent * numerator / denominator as a 64-bit whole number, if it is one.
std::optional<std::int64_t> to_whole(const Decimal& d, std::int64_t numerator,
                                     std::int64_t denominator) {
  const int exponent = d.exponent;
  if (d.digits.empty()) return 0;
  if (d.digits.size() > 19 || exponent > 18 || exponent < -18) return std::nullopt;
  Wide value = 0;
  for (char c : d.digits) value = value * 10 + (c - '0');
  const Wide limit = std::numeric_limits<std::int64_t>::max();
  Wide divisor = denominator;
  for (int i = 0; i > exponent; --i) divisor *= 10;
  // Each factor enters only while the product stays far from the end of 128 bits.
  for (int i = 0; i < exponent; ++i) {
    value *= 10;
    if (value / divisor > limit) return std::nullopt;
  }
  if (value > limit * 16) return std::nullopt;
  value *= numerator;
  if (value % divisor != 0) return std::nullopt;
  value /= divisor;
  if (value > limit) return std::nullopt;
  return static_cast<std::int64_t>(d.negative ? -value : value);
}

// The number, prefix and unit of a quantity.
struct Split {
  Decimal number;
  Prefix prefix;
  Spelling spelling;
};

Parsed<Split> split_quantity(std::string_view text, Dimension unit) {
  const UnitRow& u = row(unit);
  const std::string expected = fmt::format("expected {}", u.description);
  const auto number = scan_decimal(text);
  if (!number) return {std::nullopt, fmt::format("{}, got '{}'", expected, text), ""};
  std::string_view suffix = text.substr(number->text.size());
  if (suffix.empty())
    return {std::nullopt, fmt::format("{}, got the bare number '{}'", expected, text),
            fmt::format("give a unit, as in {}", u.example)};
  if (suffix[0] == ' ') suffix.remove_prefix(1);
  for (const Prefix& prefix : u.prefixes)
    for (const Spelling& spelling : u.spellings)
      if (suffix.size() == prefix.text.size() + spelling.text.size() &&
          suffix.substr(0, prefix.text.size()) == prefix.text &&
          suffix.substr(prefix.text.size()) == spelling.text)
        return {Split{*number, prefix, spelling}, "", ""};
  return {std::nullopt, fmt::format("{}, got the unit '{}'", expected, suffix),
          fmt::format("give a unit, as in {}", u.example)};
}

}  // namespace

const char* unit_example(Dimension unit) { return row(unit).example; }
const char* unit_description(Dimension unit) { return row(unit).description; }
const char* unit_pattern(Dimension unit) { return row(unit).pattern; }

Parsed<std::int64_t> parse_integer(std::string_view text) {
  const auto number = scan_decimal(text);
  if (!number || number->text.size() != text.size())
    return {std::nullopt, fmt::format("expected a whole number, got '{}'", text), ""};
  if (number->leading_zero)
    return {std::nullopt,
            fmt::format("expected a whole number, got '{}' with a leading zero", text),
            "numbers are decimal; drop the zero"};
  const auto value = to_whole(*number, 1, 1);
  if (!value) {
    const bool fraction = number->exponent < 0;
    return {std::nullopt,
            fmt::format("expected a whole number, got '{}'{}", text,
                        fraction ? "" : ", which does not fit in 64 bits"),
            ""};
  }
  if (text.find('.') != std::string_view::npos &&
      text.find_first_of("eE") == std::string_view::npos)
    return {std::nullopt, fmt::format("expected a whole number, got '{}'", text),
            fmt::format("write {}", *value)};
  return {*value, "", ""};
}

Parsed<double> parse_number(std::string_view text) {
  const auto number = scan_decimal(text);
  if (!number || number->text.size() != text.size())
    return {std::nullopt, fmt::format("expected a number, got '{}'", text), ""};
  if (number->leading_zero)
    return {std::nullopt, fmt::format("expected a number, got '{}' with a leading zero", text),
            "numbers are decimal; drop the zero"};
  const double value = to_double(*number, 0);
  if (!std::isfinite(value))
    return {std::nullopt, fmt::format("the number '{}' is too large", text), ""};
  return {value, "", ""};
}

Parsed<double> parse_quantity(std::string_view text, Dimension unit) {
  if (unit == Dimension::none) return parse_number(text);
  const auto parts = split_quantity(text, unit);
  if (!parts.value) return {std::nullopt, parts.error, parts.suggestion};
  const auto& [number, prefix, spelling] = *parts.value;
  const double value =
      to_double(number, prefix.exponent + spelling.exponent) * prefix.factor * spelling.factor;
  if (!std::isfinite(value))
    return {std::nullopt, fmt::format("the quantity '{}' is too large", text), ""};
  return {value, "", ""};
}

Parsed<Bytes> parse_bytes(std::string_view text) {
  const auto parts = split_quantity(text, Dimension::bytes);
  if (!parts.value) return {std::nullopt, parts.error, parts.suggestion};
  auto [number, prefix, spelling] = *parts.value;
  number.exponent += prefix.exponent;
  const auto value =
      to_whole(number, static_cast<std::int64_t>(prefix.factor), spelling.text == "b" ? 8 : 1);
  if (value) return {Bytes(*value), "", ""};
  const double size = to_double(number, 0) * prefix.factor * spelling.factor;
  const bool large = std::abs(size) > 9.2e18;
  return {std::nullopt,
          fmt::format("the size '{}' {}", text,
                      large ? "does not fit in 64 bits" : "is not a whole number of bytes"),
          ""};
}

std::string number_text(double value) { return fmt::format("{}", value); }

namespace {
// The decimal text of d * 10^-exponent without an exponent part.
std::string shifted(const Decimal& d, int exponent) {
  const int point = d.exponent - exponent;
  std::string digits = d.digits;
  if (point >= 0) {
    digits.append(static_cast<std::size_t>(point), '0');
  } else {
    const auto decimals = static_cast<std::size_t>(-point);
    if (digits.size() <= decimals) digits.insert(0, decimals + 1 - digits.size(), '0');
    digits.insert(digits.size() - decimals, ".");
  }
  return (d.negative ? "-" : "") + digits;
}
}  // namespace

std::string quantity_text(double value, Dimension unit) {
  if (unit == Dimension::none) return number_text(value);
  const UnitRow& u = row(unit);
  const std::string base = number_text(value);
  std::string best = fmt::format("{}{}", base, u.spellings[0].text);
  const auto decimal = scan_decimal(base);
  if (!decimal || decimal->digits.empty()) return best;
  // Candidates: every prefix with the first spelling (times and powers: every spelling). Short ones
  // win, and numbers from 1 to 999 are worth four characters; all must read back exactly.
  const auto cost = [](const std::string& text, double number) {
    const double size = std::abs(number);
    return text.size() + (size >= 1 && size < 1000 ? 0 : 4);
  };
  std::size_t best_cost = cost(best, value);
  const std::size_t spellings =
      unit == Dimension::seconds || unit == Dimension::watts ? u.spellings.size() : 1;
  for (const Prefix& prefix : u.prefixes)
    for (const Spelling& spelling : u.spellings.first(spellings)) {
      const double factor = prefix.factor * spelling.factor;
      const int exponent = prefix.exponent + spelling.exponent;
      if (std::abs(decimal->exponent - exponent) > 30) continue;
      const std::string number =
          factor == 1 ? shifted(*decimal, exponent) : number_text(value / factor);
      const std::string text = fmt::format("{}{}{}", number, prefix.text, spelling.text);
      const std::size_t text_cost = cost(text, parse_number(number).value.value_or(0));
      if (text_cost >= best_cost || parse_quantity(text, unit).value != value) continue;
      best = text;
      best_cost = text_cost;
    }
  return best;
}

std::string quantity_text(Bytes size) {
  if (size.value == 0) return "0B";
  std::string best = fmt::format("{}B", size.value);
  for (const Prefix& prefix : prefixes) {
    const auto scale = static_cast<std::int64_t>(prefix.factor * std::pow(10.0, prefix.exponent));
    if (size.value % scale != 0) continue;
    std::string text = fmt::format("{}{}B", size.value / scale, prefix.text);
    if (text.size() < best.size()) best = text;
  }
  return best;
}

std::string quantity_text(Seconds q) { return quantity_text(q.value, Dimension::seconds); }
std::string quantity_text(Flops q) { return quantity_text(q.value, Dimension::flops); }
std::string quantity_text(FlopsPerSecond q) {
  return quantity_text(q.value, Dimension::flops_per_second);
}
std::string quantity_text(BytesPerSecond q) {
  return quantity_text(q.value, Dimension::bytes_per_second);
}
std::string quantity_text(Watts q) { return quantity_text(q.value, Dimension::watts); }

}  // namespace orrery
