// Aligned text tables, and quantities as people read them. For text that programs read back, see
// units_text.hpp.
//
//   TextTable table;
//   table.column("GPUs").column("step", "s").left("network");
//   table.row({"8", "1.24", "nvlink"});
//   out << table.text();
//
//   GPUs  step  network
//            s
//   ----  ----  -------
//      8  1.24  nvlink
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "backend/core/units.hpp"

namespace orrery {

class TextTable {
 public:
  // Adds a column, right-aligned for numbers or left-aligned for words. The units get a row of
  // their own if any column has one.
  TextTable& column(std::string title, std::string unit = "");
  TextTable& left(std::string title, std::string unit = "");
  // One cell per column; all columns are added before the first row.
  void row(std::vector<std::string> cells);
  // A line between groups of rows.
  void rule();
  std::size_t rows() const { return rows_.size(); }

  // Lines without trailing spaces, each ended.
  std::string text() const;

 private:
  struct Column {
    std::string title, unit;
    bool left;
  };
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;  // an empty one is a rule
};

// Terminal cells that UTF-8 text takes: 2 for East Asian wide characters and emoji, 0 for combining
// marks, else 1 per code point.
std::size_t display_width(std::string_view text);

// Three significant digits: "1.24 s", "350 ms", "2.50 us"; from a minute on "2 min 5 s", "3 h 20
// min", "1.50 d". Not-a-number and infinities print as "nan", "inf".
std::string format_seconds(Seconds);
std::string format_bytes(Bytes);              // "512 B", "1.50 KiB", "80.0 GiB"
std::string format_count(double);             // "950", "12.4 K", "1.24 B"; thousand, million, ...
std::string format_thousands(std::int64_t);   // "1,234,567"
std::string format_percent(double fraction);  // 0.423 is "42.3 %"
std::string format_signed_percent(double fraction);  // "+3.1 %"
std::string format_rate(FlopsPerSecond);             // "312 TFLOPS"
std::string format_bandwidth(BytesPerSecond);        // "25.0 GB/s"

}  // namespace orrery
