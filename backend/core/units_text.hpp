// Numbers and quantities as text: what a user may write in YAML and on the command line, and the
// inverse that reads back to the same value.
//
// Grammar: NUMBER is [+-]digits[.digits][e[+-]digits], decimal only (no octal, hex, underscore, inf
// or nan). A quantity is NUMBER, at most one space, [prefix]unit:
//   Bytes            B b                       k M G T P E (1000) and Ki Mi Gi Ti (1024)
//   BytesPerSecond   Bps bps B/s b/s           the same; lower-case b is a bit
//   Flops            FLOP                      k M G T P E
//   FlopsPerSecond   FLOPS FLOP/s              k M G T P E
//   Seconds          ps ns us ms s min h
//   Watts            W kW MW
// A quantity without its unit is refused, zero included.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "backend/core/units.hpp"

namespace orrery {

enum class Dimension { none, bytes, bytes_per_second, flops, flops_per_second, seconds, watts };

const char* unit_example(Dimension);      // "25GB"
const char* unit_description(Dimension);  // "a size, such as 25GB"
const char* unit_pattern(
    Dimension);  // ECMAScript regular expression that accepts exactly the grammar above

// Outcome of parsing: a value, or a sentence that says what is wrong and one that says what to
// write.
template <class T>
struct Parsed {
  std::optional<T> value;
  std::string error;       // "expected a size, such as 25GB, got a bare number"
  std::string suggestion;  // "write 25B", or ""
};

// Plain decimal without leading zeros, or scientific that is whole (1e3, 1.5e3).
Parsed<std::int64_t> parse_integer(std::string_view text);
Parsed<double> parse_number(std::string_view text);
// In base units (bytes, bytes per second, flops, seconds, watts); correctly rounded.
Parsed<double> parse_quantity(std::string_view text, Dimension unit);
// Exact: 1.5KiB is 1536; 0.3B is an error, and so is what 64 bits cannot hold.
Parsed<Bytes> parse_bytes(std::string_view text);

// A short text that parses back to exactly this value: 80GB, 1536B, 2.5us, 2.039TBps.
std::string quantity_text(double base_value, Dimension unit);
std::string quantity_text(Bytes);
std::string quantity_text(Seconds);
std::string quantity_text(Flops);
std::string quantity_text(FlopsPerSecond);
std::string quantity_text(BytesPerSecond);
std::string quantity_text(Watts);
std::string number_text(double value);  // shortest that parses back: 0.1, 1e-05, 3

}  // namespace orrery
