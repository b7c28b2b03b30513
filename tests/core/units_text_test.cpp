#include <doctest/doctest.h>

#include <limits>
#include <regex>

#include "backend/core/philox.hpp"
#include "backend/core/units_text.hpp"

using namespace orrery;

TEST_CASE("quantities are read in every unit and prefix") {
  struct Row {
    const char* text;
    Dimension unit;
    double value;
  };
  const std::vector<Row> rows{{"25GBps", Dimension::bytes_per_second, 25e9},
                              {"200Gbps", Dimension::bytes_per_second, 25e9},
                              {"1KiB/s", Dimension::bytes_per_second, 1024},
                              {"8b/s", Dimension::bytes_per_second, 1},
                              {"2.039TBps", Dimension::bytes_per_second, 2.039e12},
                              {"312TFLOP", Dimension::flops, 312e12},
                              {"1EFLOP", Dimension::flops, 1e18},
                              {"312TFLOPS", Dimension::flops_per_second, 312e12},
                              {"1e3FLOP/s", Dimension::flops_per_second, 1000},
                              {"5us", Dimension::seconds, 5e-6},
                              {"2.5ms", Dimension::seconds, 2.5e-3},
                              {"350ns", Dimension::seconds, 350e-9},
                              {"7ps", Dimension::seconds, 7e-12},
                              {"2min", Dimension::seconds, 120},
                              {"1.5h", Dimension::seconds, 5400},
                              {"0s", Dimension::seconds, 0},
                              {"-1s", Dimension::seconds, -1},
                              {"700W", Dimension::watts, 700},
                              {"10.2kW", Dimension::watts, 10.2e3},
                              {"1.5 MW", Dimension::watts, 1.5e6},
                              {"1e3", Dimension::none, 1000},
                              {".5", Dimension::none, 0.5},
                              {"0.1", Dimension::none, 0.1}};
  for (const Row& row : rows) {
    CAPTURE(row.text);
    CHECK(parse_quantity(row.text, row.unit).value == row.value);
    CHECK(std::regex_match(row.text, std::regex(unit_pattern(row.unit))));
  }
}

TEST_CASE("sizes are exact whole bytes") {
  CHECK(parse_bytes("80GB").value->value == 80'000'000'000);
  CHECK(parse_bytes("80GiB").value->value == 85'899'345'920);
  CHECK(parse_bytes("1.5KiB").value->value == 1536);
  CHECK(parse_bytes("0.001kB").value->value == 1);
  CHECK(parse_bytes("16b").value->value == 2);
  CHECK(parse_bytes("1EB").value->value == 1'000'000'000'000'000'000);
  CHECK(parse_bytes("1E3B").value->value == 1000);
  CHECK(parse_bytes("9223372036854775807B").value->value ==
        std::numeric_limits<std::int64_t>::max());
  for (const char* bad : {"9223372036854775808B", "10EB", "9000000TiB", "0.1B", "4b", "1e-30B",
                          "1e99B", "1e99999999B"}) {
    CAPTURE(bad);
    CHECK_FALSE(parse_bytes(bad).value.has_value());
  }
}

TEST_CASE("what is no quantity is refused") {
  const std::vector<std::pair<const char*, Dimension>> rows{{"", Dimension::seconds},
                                                            {"5", Dimension::seconds},
                                                            {"0", Dimension::seconds},
                                                            {"us", Dimension::seconds},
                                                            {"5 us ", Dimension::seconds},
                                                            {"5  us", Dimension::seconds},
                                                            {"5kus", Dimension::seconds},
                                                            {"5Us", Dimension::seconds},
                                                            {"1e999s", Dimension::seconds},
                                                            {"0x5s", Dimension::seconds},
                                                            {"infs", Dimension::seconds},
                                                            {"1_0s", Dimension::seconds},
                                                            {"5GBs", Dimension::bytes_per_second},
                                                            {"5GB", Dimension::bytes_per_second},
                                                            {"5gBps", Dimension::bytes_per_second},
                                                            {"5KBps", Dimension::bytes_per_second},
                                                            {"5TiFLOP", Dimension::flops},
                                                            {"5TFLOPS", Dimension::flops},
                                                            {"5TFLOP", Dimension::flops_per_second},
                                                            {"5mW", Dimension::watts},
                                                            {"5kkW", Dimension::watts},
                                                            {"1.2.3W", Dimension::watts},
                                                            {"5W5", Dimension::watts}};
  for (const auto& [text, unit] : rows) {
    CAPTURE(text);
    CHECK_FALSE(parse_quantity(text, unit).value.has_value());
  }
}

TEST_CASE("whole numbers are plain decimal or whole scientific") {
  CHECK(parse_integer("0").value == 0);
  CHECK(parse_integer("-12").value == -12);
  CHECK(parse_integer("1e3").value == 1000);
  CHECK(parse_integer("1.5e3").value == 1500);
  CHECK(parse_integer("120e-1").value == 12);
  for (const char* bad : {"", "-", "e3", "1e", "010", "00", "0x1", "1_000", "1.5", "1e-1", "1e19",
                          "1 ", " 1", "1e+"}) {
    CAPTURE(bad);
    CHECK_FALSE(parse_integer(bad).value.has_value());
  }
}

TEST_CASE("quantities are written in the shortest form that reads back") {
  CHECK(quantity_text(Bytes(80'000'000'000)) == "80GB");
  CHECK(quantity_text(Bytes(85'899'345'920)) == "80GiB");
  CHECK(quantity_text(Bytes(1537)) == "1537B");
  CHECK(quantity_text(Seconds(5e-6)) == "5us");
  CHECK(quantity_text(Seconds(2.5e-3)) == "2.5ms");
  CHECK(quantity_text(Seconds(0)) == "0s");
  CHECK(quantity_text(Seconds(7200)) == "2h");
  CHECK(quantity_text(FlopsPerSecond(19.5e12)) == "19.5TFLOPS");
  CHECK(quantity_text(BytesPerSecond(2.039e12)) == "2.039TBps");
  CHECK(quantity_text(Watts(700)) == "700W");
  CHECK(quantity_text(Flops(1e18)) == "1EFLOP");
}

TEST_CASE("any quantity reads back from its text") {
  const Philox random(7, Purpose::user);
  for (std::uint64_t i = 0; i < 2000; ++i) {
    const double value = std::exp(random.uniform(2 * i) * 120 - 60);
    for (const Dimension unit :
         {Dimension::none, Dimension::bytes_per_second, Dimension::flops,
          Dimension::flops_per_second, Dimension::seconds, Dimension::watts}) {
      const std::string text = quantity_text(value, unit);
      CAPTURE(text);
      REQUIRE(parse_quantity(text, unit).value == value);
    }
    const Bytes size(
        static_cast<std::int64_t>(random.bits64(2 * i + 1) >> (1 + random.below(2 * i + 1, 62))));
    REQUIRE(parse_bytes(quantity_text(size)).value == size);
  }
}
