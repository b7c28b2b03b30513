#include <doctest/doctest.h>

#include "tests/core/sample_config.hpp"

using namespace orrery;
using namespace orrery::sample;

TEST_CASE("--set reaches every field") {
  const Scenario s =
      scenario(minimal, {"data.micro_batch=4", "links=[{bandwidth: 1GBps}]", "links[0].kind=pcie",
                         "links[1].bandwidth=2GBps", "peak.bf16=1TFLOPS", "twin.sequence=3",
                         "algorithm.stage=2", "capacity=1GB", "capacity=2GB", "recompute=[a, b]"});
  CHECK(s.data.micro_batch == 4);
  REQUIRE(s.links.size() == 2);
  CHECK(s.links[0].kind == "pcie");
  CHECK(s.links[1].bandwidth.value == 2e9);
  CHECK(s.peak.at("bf16").value == 1e12);
  CHECK(s.twin->sequence == 3);
  CHECK(s.algorithm.options.find("stage")->text == "2");
  CHECK(s.capacity.value == 2'000'000'000);
  CHECK(s.recompute.children.size() == 2);
}

TEST_CASE("--set can take a value away") {
  CHECK_FALSE(scenario(std::string(minimal) + "power: 5W\n", {"power=null"}).power.has_value());
  CHECK_FALSE(scenario(std::string(minimal) + "power: 5W\n", {"power="}).power.has_value());
}

TEST_CASE("errors of --set point into the setting") {
  CHECK(failure(minimal, {"data.micro_bach=8"}) ==
        R"(error[config]: unknown key 'micro_bach' in data
 --> --set:1:6
  |
1 | data.micro_bach=8
  |      ^^^^^^^^^^ did you mean 'micro_batch'?)");
  CHECK(failure(minimal, {"data.micro_batch=100"}) ==
        R"(error[config]: data.micro_batch: 100 is out of range
 --> --set:1:18
  |
1 | data.micro_batch=100
  |                  ^^^ must be at least 1, at most 64)");
}

TEST_CASE("each bad setting has its own message") {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"data", "a setting needs a value"},
      {"=5", "not a path of keys"},
      {"a..b=5", "not a path of keys"},
      {"links[x]=5", "not a path of keys"},
      {"links[0]x=5", "not a path of keys"},
      {"model.name=5", "'model' is 'tiny', not a mapping"},
      {"data[0]=5", "'data' is a mapping, not a list"},
      {"[0]=5", "the document is a mapping, not a list"},
      {"sizes[3]=5", "index 3 of 'sizes', which has 0 items"},
      {"model=[a", "a list or mapping stands where a key belongs"},
      {"model={a: [b}", "YAML syntax: illegal flow end"},
      {"model={a: 1, a: 2}", "duplicate key 'a'"},
  };
  for (const auto& [setting, expected] : cases) {
    CAPTURE(setting);
    Document document = Document::parse_text(minimal, "case.yaml");
    const std::string before = to_yaml(document.root());
    if (setting[0] == 's') document.set("sizes=[]");
    document.set(setting);
    REQUIRE(document.problems().size() == 1);
    CHECK(document.problems()[0].text == expected);
    CHECK(document.problems()[0].file == "--set");
  }
}

TEST_CASE("errors of the file come before those of --set") {
  const std::string text = failure(std::string(minimal) + "zz: 1\n", {"x", "y=1"});
  const std::size_t file = text.find("'zz'"), bad = text.find("needs a value"),
                    unknown = text.find("'y'");
  CHECK(file < bad);
  CHECK(bad < unknown);
  CHECK(unknown != std::string::npos);
}
