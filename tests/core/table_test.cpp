#include <doctest/doctest.h>

#include "backend/core/error.hpp"
#include "backend/core/table.hpp"

using namespace orrery;

TEST_CASE("columns are aligned and units have a row of their own") {
  TextTable table;
  table.column("GPUs").column("step", "s").left("network");
  table.row({"8", "1.24", "nvlink"});
  table.rule();
  table.row({"1,024", "12.5", "überall 网"});
  table.row({"", "1", ""});
  CHECK(table.text() ==
        " GPUs  step  network\n"
        "          s\n"
        "-----  ----  ----------\n"
        "    8  1.24  nvlink\n"
        "-----  ----  ----------\n"
        "1,024  12.5  überall 网\n"
        "          1\n");
}

TEST_CASE("a table without units has no unit row") {
  TextTable table;
  table.left("a").column("b");
  CHECK(table.text() == "a  b\n-  -\n");
}

TEST_CASE("a row with the wrong number of cells is a defect") {
  TextTable table;
  table.left("a").column("b");
  CHECK_THROWS_AS(table.row({"1"}), Error);
}

TEST_CASE("width counts terminal cells") {
  CHECK(display_width("abc") == 3);
  CHECK(display_width("é") == 1);
  CHECK(display_width("e\u0301") == 1);
  CHECK(display_width("网") == 2);
  CHECK(display_width("\xff") == 1);
}

TEST_CASE("times are said in the unit that suits them") {
  CHECK(format_seconds(Seconds(0)) == "0 s");
  CHECK(format_seconds(Seconds(1.5e-12)) == "1.50 ps");
  CHECK(format_seconds(Seconds(350e-9)) == "350 ns");
  CHECK(format_seconds(Seconds(2.5e-6)) == "2.50 us");
  CHECK(format_seconds(Seconds(999.96e-6)) == "1.00 ms");
  CHECK(format_seconds(Seconds(0.0125)) == "12.5 ms");
  CHECK(format_seconds(Seconds(1.238)) == "1.24 s");
  CHECK(format_seconds(Seconds(-1.238)) == "-1.24 s");
  CHECK(format_seconds(Seconds(59.99)) == "1 min 0 s");
  CHECK(format_seconds(Seconds(125)) == "2 min 5 s");
  CHECK(format_seconds(Seconds(3599.9)) == "1 h 0 min");
  CHECK(format_seconds(Seconds(12000)) == "3 h 20 min");
  CHECK(format_seconds(Seconds(129600)) == "1.50 d");
  CHECK(format_seconds(Seconds(0.0 / 0.0)).find("nan") != std::string::npos);
}

TEST_CASE("sizes, counts, shares and rates are said for people") {
  CHECK(format_bytes(Bytes(512)) == "512 B");
  CHECK(format_bytes(Bytes(1536)) == "1.50 KiB");
  CHECK(format_bytes(Bytes(85'899'345'920)) == "80.0 GiB");
  CHECK(format_bytes(Bytes((std::int64_t{1} << 30) - 1)) == "1.00 GiB");
  CHECK(format_count(950) == "950");
  CHECK(format_count(0.5) == "0.50");
  CHECK(format_count(12'400) == "12.4 K");
  CHECK(format_count(999'999) == "1.00 M");
  CHECK(format_count(1.24e9) == "1.24 B");
  CHECK(format_count(175e9) == "175 B");
  CHECK(format_thousands(0) == "0");
  CHECK(format_thousands(-123456) == "-123,456");
  CHECK(format_thousands(1234567) == "1,234,567");
  CHECK(format_percent(0.423) == "42.3 %");
  CHECK(format_signed_percent(0.031) == "+3.1 %");
  CHECK(format_rate(FlopsPerSecond(312e12)) == "312 TFLOPS");
  CHECK(format_bandwidth(BytesPerSecond(25e9)) == "25.0 GB/s");
}
