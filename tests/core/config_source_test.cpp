#include <doctest/doctest.h>

#include "tests/core/sample_config.hpp"

using namespace orrery;
using namespace orrery::sample;

namespace {

Gpu gpu(const std::string& text, const std::string& setting = "") {
  Document document = Document::parse_text(text, "gpu.yaml");
  if (!setting.empty()) document.set(setting);
  return read<Gpu>(document, {.sources = Sources::required});
}

std::vector<std::string> complaints(const std::string& text) {
  std::vector<std::string> texts;
  try {
    gpu(text);
  } catch (const ConfigError& error) {
    for (const ConfigMessage& m : error.messages)
      texts.push_back(std::to_string(m.line) + ":" + std::to_string(m.column) + " " + m.text);
  }
  return texts;
}

using Texts = std::vector<std::string>;

}  // namespace

TEST_CASE("a number takes the nearest source around it") {
  const Gpu g = gpu(R"(
source: {kind: assumed, note: outer}
name: a100
capacity: {value: 80GB, source: {kind: datasheet, document: d, table: t}}
bandwidth: 2TBps
count: 4
peak:
  source: {kind: measured, date: 2024-05-01, device: A100, driver: 550.54, command: gemm}
  bf16: 312TFLOPS
  fp8: {value: 600TFLOPS}
)");
  CHECK((g.capacity.source->kind == SourceKind::datasheet));
  CHECK(g.capacity.value.value == 80'000'000'000);
  CHECK(g.bandwidth.source->note == "outer");
  CHECK(g.count == 4);
  CHECK(g.peak.size() == 2);
  CHECK(g.peak.at("bf16").source->driver == "550.54");
  CHECK((g.peak.at("fp8").source->kind == SourceKind::measured));
  CHECK(g.capacity.mark.line == 4);
  CHECK(g.capacity.mark.column == 19);
}

TEST_CASE("a number without any source is named") {
  CHECK(
      complaints(
          "name: a\ncapacity: 80GB\ncount: 2\npeak:\n  bf16: 1TFLOPS\nachieved: {value: 0.9}\n") ==
      Texts{"2:11 no source for capacity", "3:8 no source for count", "5:9 no source for peak.bf16",
            "6:19 no source for achieved"});
}

TEST_CASE("a source does not reach beyond the mapping it stands in") {
  CHECK(complaints("name: a\ncapacity: {value: 1GB, source: {kind: assumed}}\n"
                   "peak: {source: {kind: assumed}, bf16: 1TFLOPS}\nachieved: 0.9\n") ==
        Texts{"4:11 no source for achieved"});
}

TEST_CASE("each kind of source needs its own keys") {
  const auto with = [](const std::string& source) {
    return complaints("name: a\ncapacity: {value: 1GB, source: " + source + "}\n");
  };
  CHECK(with("{kind: assumed}").empty());
  CHECK(with("{kind: datasheet, document: d}") ==
        Texts{"2:24 missing key 'table' in capacity.source: a datasheet source needs it"});
  CHECK(with("{kind: measured, date: d, device: x}") ==
        Texts{"2:24 missing key 'driver' in capacity.source: a measured source needs it",
              "2:24 missing key 'command' in capacity.source: a measured source needs it"});
  CHECK(with("{kind: fitted}") ==
        Texts{"2:24 missing key 'cases' in capacity.source: a fitted source needs it",
              "2:24 missing key 'residual' in capacity.source: a fitted source needs it"});
  CHECK(with("{kind: fitted, cases: [a], residual: 0.03}").empty());
  CHECK(with("{kind: guessed}") == Texts{"2:39 capacity.source.kind: 'guessed' is not one of "
                                         "datasheet, measured, fitted, assumed"});
  CHECK(with("{kind: assumed, tabel: x}") == Texts{"2:48 unknown key 'tabel' in capacity.source"});
  CHECK(with("recalled") == Texts{"2:24 capacity.source: expected a mapping, got 'recalled'"});
}

TEST_CASE("a bad source is reported once, not at every number below it") {
  CHECK(complaints(
            "source: {kind: datasheet, document: d}\nname: a\ncapacity: 1GB\nbandwidth: 1GBps\n") ==
        Texts{"1:1 missing key 'table' in source: a datasheet source needs it"});
}

TEST_CASE("a wrapped number has a value and nothing else beside its source") {
  CHECK(complaints("source: {kind: assumed}\nname: a\ncapacity: {vlaue: 1GB}\n") ==
        Texts{"3:1 missing key 'value' in capacity", "3:12 unknown key 'vlaue' in capacity"});
}

TEST_CASE("what --set gives is assumed, and so are defaults") {
  const Gpu g = gpu("source: {kind: datasheet, document: d, table: t}\nname: a\ncapacity: 1GB\n",
                    "capacity=2GB");
  CHECK((g.capacity.source->kind == SourceKind::assumed));
  CHECK(g.capacity.source->note == "--set capacity=2GB");
  CHECK((g.achieved.source->kind == SourceKind::assumed));
  CHECK(g.achieved.source->note == "default of the program");
}

TEST_CASE("a sourced number reads back from its dump") {
  const Gpu g =
      gpu("name: a\ncapacity: {value: 1GB, source: {kind: fitted, cases: [x, y], residual: "
          "0.03}}\nsource: {kind: assumed}\ncount: 3\n");
  const Gpu again = read<Gpu>(Document::parse_text(resolved_yaml(g)));
  CHECK((again.capacity == g.capacity));
  CHECK(resolved_yaml(again) == resolved_yaml(g));
}

TEST_CASE("a document that needs no sources knows no source keys") {
  CHECK_THROWS_WITH_AS(
      read<Gpu>(Document::parse_text("source: {kind: assumed}\nname: a\ncapacity: 1GB\n")),
      doctest::Contains("unknown key 'source'"), ConfigError);
  CHECK_THROWS_WITH_AS(
      read<Gpu>(Document::parse_text("name: a\ncapacity: 1GB\ncount: {value: 3}\n")),
      doctest::Contains("expected a whole number, got a mapping"), ConfigError);
}

namespace {
struct Held {
  Node gemm;
};
void describe(Fields<Held>& f) { f.open("gemm", &Held::gemm); }
struct Gemm {
  Sourced<double> efficiency;
};
void describe(Fields<Gemm>& f) { f.field("efficiency", &Gemm::efficiency); }
}  // namespace

TEST_CASE("a part kept for a later reader takes its source along") {
  const Document document =
      Document::parse_text("source: {kind: assumed, note: far}\ngemm: {efficiency: 0.9}\n");
  Problems problems;
  const ReadOptions options{.sources = Sources::required};
  const auto held = read<Held>(document, problems, options);
  const auto gemm = read<Gemm>(held.gemm, problems, options);
  problems.throw_if_any();
  CHECK(gemm.efficiency.source->note == "far");
}
