#include <doctest/doctest.h>

#include "tests/core/sample_config.hpp"

using namespace orrery;
using namespace orrery::sample;

namespace {

// The one message that `line`, added to the minimal document, gives as its fourth line.
ConfigMessage message_of(const std::string& line) {
  try {
    scenario(std::string(minimal) + line);
  } catch (const ConfigError& error) {
    REQUIRE(error.messages.size() == 1);
    return error.messages[0];
  }
  FAIL("no error for " << line);
  return {};
}

// Column, underlined characters, text and suggestion in one string.
std::string summary(const std::string& line) {
  const ConfigMessage m = message_of(line);
  CHECK(m.line == 4);
  return std::to_string(m.column) + "+" + std::to_string(m.length) + " " + m.text +
         (m.suggestion.empty() ? "" : " | " + m.suggestion);
}

std::string first_error(const std::string& text) {
  const std::string all = failure(text);
  return all.substr(0, all.find("\n\n"));
}

}  // namespace

TEST_CASE("an unknown key is shown with its line and a suggestion") {
  CHECK(failure("model: m\ndata: {sequence: 8}\nalgorithm: {name: a}\nlinks:\n"
                "  - bandwidth: 1GBps\n    latecny: 5us\n") ==
        R"(error[config]: unknown key 'latecny' in links[0]
 --> case.yaml:6:5
  |
6 |     latecny: 5us
  |     ^^^^^^^ did you mean 'latency'?)");
}

TEST_CASE("the margin fits the line number") {
  const std::string blank(9, '\n');
  CHECK(failure(blank + minimal + "modle: x\n") == R"(error[config]: unknown key 'modle'
  --> case.yaml:13:1
   |
13 | modle: x
   | ^^^^^ did you mean 'model'?)");
}

TEST_CASE("all errors of a document are reported at once, in order") {
  CHECK(failure(R"(model: [a]
data: {sequence: 0, micro_batch: x}
capacity: 25
twin: {}
algorithm: {name: a}
algorithm: {name: b}
)") == R"(error[config]: model: expected text, got a list
 --> case.yaml:1:8
  |
1 | model: [a]
  |        ^

error[config]: data.sequence: 0 is out of range
 --> case.yaml:2:18
  |
2 | data: {sequence: 0, micro_batch: x}
  |                  ^ must be at least 1

error[config]: data.micro_batch: expected a whole number, got 'x'
 --> case.yaml:2:34
  |
2 | data: {sequence: 0, micro_batch: x}
  |                                  ^

error[config]: capacity: expected a size such as 25GB, got the bare number '25'
 --> case.yaml:3:11
  |
3 | capacity: 25
  |           ^^ give a unit, as in 25GB

error[config]: missing key 'sequence' in twin
 --> case.yaml:4:1
  |
4 | twin: {}
  | ^^^^ tokens per sample

error[config]: duplicate key 'algorithm'
 --> case.yaml:6:1
  |
6 | algorithm: {name: b}
  | ^^^^^^^^^ first given in line 5)");
}

TEST_CASE("each mistake has its own message") {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"nonsense: 1", "1+8 unknown key 'nonsense'"},
      {"Model: 1", "1+5 unknown key 'Model' | did you mean 'model'?"},
      {"mode: ful", "7+3 mode: 'ful' is not one of none, selective, full | did you mean 'full'?"},
      {"mode: xyz", "7+3 mode: 'xyz' is not one of none, selective, full"},
      {"mode: [full]", "7+1 mode: expected one of none, selective, full, got a list"},
      {"capacity: 0",
       "11+1 capacity: expected a size such as 25GB, got the bare number '0' | give a unit, as in "
       "25GB"},
      {"capacity: 5GW",
       "11+3 capacity: expected a size such as 25GB, got the unit 'GW' | give a unit, as in 25GB"},
      {"capacity: 0.5B", "11+4 capacity: the size '0.5B' is not a whole number of bytes"},
      {"capacity: 99EB", "11+4 capacity: the size '99EB' does not fit in 64 bits"},
      {"capacity: 1kB", "11+3 capacity: 1kB is out of range | must be at least 1MB"},
      {"capacity: many", "11+4 capacity: expected a size such as 25GB, got 'many'"},
      {"work: -1FLOP", "7+6 work: -1FLOP is out of range | must be not negative"},
      {"power: 3kW", "8+3 power: 3kW is out of range | must be at most 2kW"},
      {"power: {}", "8+1 power: expected a power such as 700W, got a mapping"},
      {"links: {}", "8+1 links: expected a list, got a mapping"},
      {"links: 5", "8+1 links: expected a list, got '5' | write [5]"},
      {"links:", "1+5 links: expected a list, got nothing | write [] for an empty list"},
      {"links: [a]", "9+1 links[0]: expected a mapping, got 'a'"},
      {"links: [{bandwidth: 0GBps}]",
       "21+5 links[0].bandwidth: 0GBps is out of range | must be above 0Bps"},
      {"links: [{kind: pcie}]", "9+1 missing key 'bandwidth' in links[0]"},
      {"sizes: []", "1+5 sizes: has 0 items | must have at least 1"},
      {"sizes: [1, 010]",
       "12+3 sizes[1]: expected a whole number, got '010' with a leading zero | numbers are "
       "decimal; drop the zero"},
      {"sizes: [1.0]", "9+3 sizes[0]: expected a whole number, got '1.0' | write 1"},
      {"sizes: [1.5]", "9+3 sizes[0]: expected a whole number, got '1.5'"},
      {"sizes: [0x10]", "9+4 sizes[0]: expected a whole number, got '0x10'"},
      {"sizes: [1_000]", "9+5 sizes[0]: expected a whole number, got '1_000'"},
      {"sizes: ['8']", "9+3 sizes[0]: expected a whole number, got the text '8' | drop the quotes"},
      {"sizes: [9223372036854775808]",
       "9+19 sizes[0]: expected a whole number, got '9223372036854775808', which does not fit in "
       "64 bits"},
      {"twin: {sequence: ~}", "8+8 twin.sequence: expected a whole number, got nothing"},
      {"twin: {sequence: 8, shuffle: yes}",
       "30+3 twin.shuffle: expected true or false, got 'yes' | write true"},
      {"twin: {sequence: 8, shuffle: 'true'}",
       "30+6 twin.shuffle: expected true or false, got the text 'true' | drop the quotes"},
      {"twin: {sequence: 8, scale: .inf}", "28+4 twin.scale: expected a number, got '.inf'"},
      {"twin: {sequence: 8, scale: '1'}",
       "28+3 twin.scale: expected a number, got the text '1' | drop the quotes"},
      {"twin: {sequence: 8, scale: 0}",
       "28+1 twin.scale: 0 is out of range | must be above 0, at most 2"},
      {"twin: {sequence: 8, scale: 1e999}", "28+5 twin.scale: the number '1e999' is too large"},
      {"twin: {sequence: 8, micro_batch: 5000000000}",
       "34+10 twin.micro_batch: 5000000000 is out of range | must be at least 1, at most 64"},
      {"twin: {sequence: 9, micro_batch: 2}",
       "21+11 twin.micro_batch: does not divide sequence | use 1"},
      {"twin: {sequence: 8, text: !!str 5}",
       "27+1 tags such as '!!str' are not used here | quote a value to make it a string"},
      {"peak: {bf16: 312}",
       "14+3 peak.bf16: expected a compute rate such as 312TFLOPS, got the bare number '312' | "
       "give a unit, as in 312TFLOPS"},
      {"peak: []", "7+1 peak: expected a mapping, got a list"},
      {"<<: {a: 1}", "1+2 merge keys ('<<') are not supported | write the keys out"},
      {"data: {}", "1+4 duplicate key 'data' | first given in line 2"},
      {"recompute: {a: 1, 'a': 2}", "19+3 duplicate key 'a' | first given in line 4"},
      {"recompute: *none", "12+1 YAML syntax: the referenced anchor is not defined"},
      {"recompute: &a [*a]", "16+1 an alias cannot lie inside what it names"},
      {"recompute: {[a]: 1}",
       "13+1 a list or mapping stands where a key belongs | is a bracket not closed, or a key not "
       "quoted?"},
      {"recompute: {~: 1}", "13+1 a key must be a plain string"},
      {"recompute: \"\\\xC3\xA9\"", "15+1 YAML syntax: unknown escape character: ?"},
      {"recompute: [a", "12+1 YAML syntax: end of sequence flow not found | opened here"},
  };
  for (const auto& [line, expected] : cases) {
    CAPTURE(line);
    CHECK(summary(line) == expected);
  }
}

TEST_CASE("a missing key points at the section it is missing from") {
  CHECK(failure("model: m\nalgorithm: {name: a}\ndata:\n  micro_batch: 2\n") ==
        R"(error[config]: missing key 'sequence' in data
 --> case.yaml:3:1
  |
3 | data:
  | ^^^^ tokens per sample)");
  CHECK(first_error("") == R"(error[config]: missing key 'model'
 --> case.yaml:1:1
  |
1 |
  | ^ name of a model)");
}

TEST_CASE("of a duplicate key the first value stays") {
  const Document document = Document::parse_text("a: 1\na: {b: 2}\nc: 3\n");
  CHECK(document.problems().size() == 1);
  CHECK(to_yaml(document.root()) == "a: 1\nc: 3\n");
}

TEST_CASE("columns count characters, tabs take one column") {
  const ConfigMessage m = message_of("recompute: {ключ: 1, ключ: 2}");
  CHECK(m.column == 22);
  CHECK(m.length == 4);
  CHECK(render(message_of("twin: {sequence:\t\tx}"))
            .find("4 | twin: {sequence:  x}\n  |                   ^") != std::string::npos);
}

TEST_CASE("only the neighbourhood of the mark is shown of a long line") {
  const ConfigMessage m = message_of("recompute: {" + std::string(500, 'k') +
                                     ": 1, dup: 1, dup: 2, " + std::string(500, 'z') + ": 3}");
  const std::string text = render(m);
  CHECK(text.find("dup: 1, dup: 2, zzz") != std::string::npos);
  std::size_t at = 0;
  for (std::size_t end = 0; (end = text.find('\n', at)) != std::string::npos; at = end + 1)
    CHECK(end - at < 200);
  const std::size_t carets = text.rfind("^^^");
  const std::size_t line = text.rfind('\n', carets), before = text.rfind('\n', line - 1);
  CHECK(text.substr(before + carets - line, 3) == "dup");
}

TEST_CASE("what is not text is refused before parsing") {
  CHECK(first_error("model: \xff\xfe\n") == R"(error[config]: not valid UTF-8
 --> case.yaml:1:1
  |
1 |
  | ^ save the file as UTF-8)");
  CHECK(first_error(std::string("model: m\na: b\0c\n", 15))
            .find("control character 0x00\n --> case.yaml:2:5") != std::string::npos);
  CHECK(first_error("%YAML 1.1\n---\nmodel: m\n").find("YAML directives") != std::string::npos);
  CHECK(first_error("model: m\n---\nmodel: n\n").find("a file holds one document") !=
        std::string::npos);
}

TEST_CASE("documents that would exhaust memory are refused") {
  const std::string deep = std::string(100, '[') + std::string(100, ']');
  CHECK(message_of("recompute: " + deep).text == "nested deeper than 64 levels");
  std::string text;
  for (int i = 0; i < 5000; ++i) text += "- ";
  CHECK(failure("recompute:\n " + text).find("error[config]:") == 0);
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 10; ++i) {
    const std::string name = "*a" + std::to_string(i - 1);
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
    for (int k = 0; k < 10; ++k) bomb += (k ? ", " : "") + name;
    bomb += "]\n";
  }
  CHECK(failure(bomb).find("the document has more than 200000 values") != std::string::npos);
  CHECK(failure("model: " + std::string(17 << 20, 'x')) ==
        "error[config]: larger than 16 MiB\n  --> case.yaml");
}

TEST_CASE("later checks find positions by path") {
  Document document = Document::parse_text(
      "model: m\ndata:\n  sequence: 8\nalgorithm: {name: a}\nlinks: [{bandwidth: 1GBps}]\n",
      "case.yaml");
  document.set("data.micro_batch=4");
  Problems problems;
  read<Scenario>(document, problems);
  problems.add("links[0].bandwidth", "too slow", "buy more");
  problems.add("data.sequence", "too short");
  problems.add("data.absent.deeper", "not there");
  problems.add("data.micro_batch", "set badly");
  std::vector<std::string> places;
  for (const ConfigMessage& m : problems.sorted())
    places.push_back(m.file + ":" + std::to_string(m.line) + ":" + std::to_string(m.column) + " " +
                     m.text);
  CHECK(places == std::vector<std::string>{"case.yaml:2:1 not there", "case.yaml:3:3 too short",
                                           "case.yaml:5:10 too slow", "--set:1:6 set badly"});
  CHECK_THROWS_AS(problems.throw_if_any(), ConfigError);
}

TEST_CASE("a configuration error has the exit code of its category") {
  try {
    scenario("");
    FAIL("an empty scenario was read");
  } catch (const Error& error) {
    CHECK(error.category() == Category::config);
    CHECK(exit_code(error.category()) == 3);
  }
}

TEST_CASE("a file that cannot be read is named") {
  CHECK_THROWS_WITH_AS(Document::parse_file("absent/x.yaml"), doctest::Contains("absent/x.yaml"),
                       Error);
}
