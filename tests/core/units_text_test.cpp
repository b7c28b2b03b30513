#include <doctest/doctest.h>

#include <limits>
#include <regex>

#include "backend/core/philox.hpp"
#include "backend/core/units_text.hpp"

using namespace orrery;

TEST_CASE("quantities are read in every unit and prefix") {
  struct Row {
    const char* text;
    Unit unit;
    double value;
  };
  const std::vector<Row> rows{{"25GBps", Unit::bytes_per_second, 25e9},
                              {"200Gbps", Unit::bytes_per_second, 25e9},
                              {"1KiB/s", Unit::bytes_per_second, 1024},
                              {"8b/s", Unit::bytes_per_second, 1},
                              {"2.039TBps", Unit::bytes_per_second, 2.039e12},
                              {"312TFLOP", Unit::flops, 312e12},
                              {"1EFLOP", Unit::flops, 1e18},
                              {"312TFLOPS", Unit::flops_per_second, 312e12},
                              {"1e3FLOP/s", Unit::flops_per_second, 1000},
                              {"5us", Unit::seconds, 5e-6},
                              {"2.5ms", Unit::seconds, 2.5e-3},
                              {"350ns", Unit::seconds, 350e-9},
                              {"7ps", Unit::seconds, 7e-12},
                              {"2min", Unit::seconds, 120},
                              {"1.5h", Unit::seconds, 5400},
                              {"0s", Unit::seconds, 0},
                              {"-1s", Unit::seconds, -1},
                              {"700W", Unit::watts, 700},
                              {"10.2kW", Unit::watts, 10.2e3},
                              {"1.5 MW", Unit::watts, 1.5e6},
                              {"1e3", Unit::none, 1000},
                              {".5", Unit::none, 0.5},
                              {"0.1", Unit::none, 0.1}};
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
  const std::vector<std::pair<const char*, Unit>> rows{{"", Unit::seconds},
                                                       {"5", Unit::seconds},
                                                       {"0", Unit::seconds},
                                                       {"us", Unit::seconds},
                                                       {"5 us ", Unit::seconds},
                                                       {"5  us", Unit::seconds},
                                                       {"5kus", Unit::seconds},
                                                       {"5Us", Unit::seconds},
                                                       {"1e999s", Unit::seconds},
                                                       {"0x5s", Unit::seconds},
                                                       {"infs", Unit::seconds},
                                                       {"1_0s", Unit::seconds},
                                                       {"5GBs", Unit::bytes_per_second},
                                                       {"5GB", Unit::bytes_per_second},
                                                       {"5gBps", Unit::bytes_per_second},
                                                       {"5KBps", Unit::bytes_per_second},
                                                       {"5TiFLOP", Unit::flops},
                                                       {"5TFLOPS", Unit::flops},
                                                       {"5TFLOP", Unit::flops_per_second},
                                                       {"5mW", Unit::watts},
                                                       {"5kkW", Unit::watts},
                                                       {"1.2.3W", Unit::watts},
                                                       {"5W5", Unit::watts}};
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
    for (const Unit unit : {Unit::none, Unit::bytes_per_second, Unit::flops, Unit::flops_per_second,
                            Unit::seconds, Unit::watts}) {
      const std::string text = quantity_text(value, unit);
      CAPTURE(text);
      REQUIRE(parse_quantity(text, unit).value == value);
    }
    const Bytes size(
        static_cast<std::int64_t>(random.bits64(2 * i + 1) >> (1 + random.below(2 * i + 1, 62))));
    REQUIRE(parse_bytes(quantity_text(size)).value == size);
  }
}
