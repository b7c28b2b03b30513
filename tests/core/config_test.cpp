#include <doctest/doctest.h>

#include "tests/core/sample_config.hpp"

using namespace orrery;
using namespace orrery::sample;

TEST_CASE("every kind of field is read") {
  const Scenario s = scenario(R"(
model: gpt
data: {sequence: 2048, micro_batch: 4, text: null, shuffle: false, scale: 1.5}
mode: selective
capacity: 80GiB
work: 312TFLOP
power: 0.7kW
links:
  - {kind: pcie, bandwidth: 200Gbps, latency: 2.5us}
  - bandwidth: 25GBps
sizes: [3, 1e3]
peak: {bf16: 312TFLOPS, fp32: 19.5TFLOPS}
algorithm: {name: zero, stage: 2, bucket: 25MB}
recompute: [attention, mlp]
twin: {sequence: 4, text: "a b"}
)");
  CHECK(s.model == "gpt");
  CHECK(s.data.sequence == 2048);
  CHECK(s.data.micro_batch == 4);
  CHECK_FALSE(s.data.text.has_value());
  CHECK_FALSE(s.data.shuffle);
  CHECK(s.data.scale == 1.5);
  CHECK((s.mode == Mode::selective));
  CHECK(s.capacity.value == 85'899'345'920);
  CHECK(s.work.value == 312e12);
  CHECK(s.power->value == 700);
  REQUIRE(s.links.size() == 2);
  CHECK(s.links[0].kind == "pcie");
  CHECK(s.links[0].bandwidth.value == 25e9);
  CHECK(s.links[0].latency.value == 2.5e-6);
  CHECK(s.links[1].kind == "nvlink");
  CHECK(s.links[1].latency.value == 5e-6);
  CHECK(s.sizes == std::vector<std::int64_t>{3, 1000});
  CHECK(s.peak.at("fp32").value == 19.5e12);
  CHECK(s.algorithm.name == "zero");
  CHECK(s.recompute.children.size() == 2);
  REQUIRE(s.twin.has_value());
  CHECK(*s.twin->text == "a b");
}

TEST_CASE("what is not given keeps the default") {
  const Scenario s = scenario(minimal);
  CHECK(s.data.micro_batch == 1);
  CHECK(s.capacity.value == 80'000'000'000);
  CHECK(s.sizes == std::vector<std::int64_t>{1, 2});
  CHECK_FALSE(s.power.has_value());
  CHECK_FALSE(s.twin.has_value());
  CHECK(s.recompute.is_null());
}

TEST_CASE("a resolved dump reads back to the same dump") {
  const Scenario s = scenario(R"(
model: "007"
data: {sequence: 2048, text: "a: \"b\"\n# c\tdé"}
links: [{bandwidth: 450GBps}, {kind: pcie, bandwidth: 1.23456789e9Bps, latency: 0s}]
algorithm: {name: zero, stage: 2, deep: [[1, {a: 'true'}], [], {}, null, "x, y"]}
recompute: {a: {b: [c]}, "k: 1": ~}
peak: {"a b": 1.5PFLOPS}
)");
  const std::string dump = resolved_yaml(s);
  CAPTURE(dump);
  CHECK(resolved_yaml(scenario(dump)) == dump);
  CHECK(scenario(dump).model == "007");
  CHECK(*scenario(dump).data.text == "a: \"b\"\n# c\tdé");
  CHECK(scenario(dump).links[1].bandwidth.value == 1.23456789e9);
}

TEST_CASE("text that looks like something else keeps its quotes") {
  const char* text =
      "a: \"true\"\nb: \"12\"\nc: \"null\"\nd: word\ne: \"- x\"\nf: true\ng: 12\nh: null\n";
  CHECK(to_yaml(Document::parse_text(text).root()) == text);
}

TEST_CASE("a resolved dump shows defaults and readable units") {
  CHECK(resolved_yaml(scenario(minimal, {"links=[{bandwidth: 25GBps}]"})) == R"(model: tiny
data:
  sequence: 8
  micro_batch: 1
  text: null
  shuffle: true
  scale: 0.5
mode: none
capacity: 80GB
work: 1TFLOP
power: null
links:
  - kind: nvlink
    bandwidth: 25GBps
    latency: 5us
sizes: [1, 2]
peak: {}
algorithm:
  name: ddp
recompute: null
twin: null
)");
}

TEST_CASE("keys left to a later reader keep their positions") {
  const Document document = Document::parse_text(
      "model: m\ndata: {sequence: 8}\nalgorithm:\n  name: zero\n  stage: 7\n  bukcet: 1MB\n",
      "case.yaml");
  Problems problems;
  const auto s = read<Scenario>(document, problems);
  CHECK(problems.empty());
  read<Zero>(s.algorithm.options, problems);
  const auto messages = problems.sorted();
  REQUIRE(messages.size() == 2);
  CHECK(messages[0].text == "algorithm.stage: 7 is out of range");
  CHECK(messages[0].line == 5);
  CHECK(messages[0].column == 10);
  CHECK(messages[1].text == "unknown key 'bukcet' in algorithm");
  CHECK(messages[1].suggestion == "did you mean 'bucket'?");
}

TEST_CASE("a later reader reads the keys that were left to it") {
  const Scenario s =
      scenario("model: m\ndata: {sequence: 8}\nalgorithm: {name: zero, stage: 3, bucket: 1KiB}\n");
  Problems problems;
  const auto zero = read<Zero>(s.algorithm.options, problems);
  CHECK(problems.empty());
  CHECK(zero.stage == 3);
  CHECK(zero.bucket->value == 1024);
}

TEST_CASE("an open field may be a word or a list") {
  Problems problems;
  const auto words = [&](const char* text) {
    return read<std::vector<std::string>>(
        scenario(std::string(minimal) + "recompute: " + text).recompute, problems);
  };
  CHECK(scenario(std::string(minimal) + "recompute: full").recompute.text == "full");
  CHECK(words("[attention, mlp]") == std::vector<std::string>{"attention", "mlp"});
  CHECK(problems.empty());
  words("full");
  REQUIRE(problems.size() == 1);
  CHECK(problems.sorted()[0].text == "recompute: expected a list, got 'full'");
}

TEST_CASE("unknown keys of a foreign file can be ignored") {
  const Document document = Document::parse_text(
      "{\n\t\"sequence\":16,\n\t\"torch_dtype\": \"bfloat16\",\n\t\"architectures\": "
      "[\"A\\/B\\u00e9\"], \"scale\": 1e-05}\n");
  CHECK_THROWS_AS(read<Data>(document), ConfigError);
  const auto data = read<Data>(document, {.unknown = UnknownKeys::ignore});
  CHECK(data.sequence == 16);
  CHECK(data.scale == 1e-5);
  CHECK(document.root().find("architectures")->children[0].text == "A/B\xC3\xA9");
}

TEST_CASE("anchors and aliases are expanded") {
  const Scenario s = scenario(
      "model: m\ndata: &d {sequence: 8}\ntwin: *d\nalgorithm: {name: &n ddp}\nrecompute: [*n, "
      "*n]\n");
  CHECK(s.twin->sequence == 8);
  CHECK(s.recompute.children.at(1).text == "ddp");
}

TEST_CASE("an empty section is one without keys") {
  CHECK(scenario("model: m\ndata: {sequence: 8}\nalgorithm: {name: a}\nlinks: []\npeak: {}\n")
            .links.empty());
  CHECK(failure("model: m\ndata:\nalgorithm: {name: a}\n").find("missing key 'sequence' in data") !=
        std::string::npos);
}

TEST_CASE("carriage returns and a byte order mark do not matter") {
  CHECK(scenario("\xEF\xBB\xBFmodel: tiny\r\ndata: {sequence: 8}\r\nalgorithm: {name: ddp}\r\n")
            .model == "tiny");
}
