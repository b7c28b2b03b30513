// A small configuration that uses every kind of field, for the tests of the reader and its fuzz
// target.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "backend/core/config.hpp"

namespace orrery::sample {

enum class Mode { none, selective, full };

struct Data {
  std::int64_t sequence = 0;
  int micro_batch = 1;
  std::optional<std::string> text;
  bool shuffle = true;
  double scale = 0.5;
};
inline void describe(Fields<Data>& f) {
  f.field("sequence", &Data::sequence).required().at_least(1).doc("tokens per sample");
  f.field("micro_batch", &Data::micro_batch).between(1, 64).doc("samples per pass");
  f.field("text", &Data::text);
  f.field("shuffle", &Data::shuffle);
  f.field("scale", &Data::scale).positive().at_most(2);
  f.check([](const Data& d, const SectionProblems& p) {
    if (d.sequence % d.micro_batch != 0) p.add("micro_batch", "does not divide sequence", "use 1");
  });
}

struct Link {
  std::string kind;
  BytesPerSecond bandwidth;
  Seconds latency{5e-6};
};
inline void describe(Fields<Link>& f) {
  f.field("kind", &Link::kind).defaults("nvlink").one_of({"nvlink", "pcie", "ethernet"});
  f.field("bandwidth", &Link::bandwidth).required().positive();
  f.field("latency", &Link::latency);
}

struct Algorithm {
  std::string name;
  Node options;
};
inline void describe(Fields<Algorithm>& f) {
  f.field("name", &Algorithm::name).required();
  f.rest(&Algorithm::options);
}

struct Zero {
  int stage = 1;
  std::optional<Bytes> bucket;
};
inline void describe(Fields<Zero>& f) {
  f.field("stage", &Zero::stage).between(0, 3);
  f.field("bucket", &Zero::bucket).at_least(Bytes(1024));
}

struct Scenario {
  std::string model;
  Data data;
  Mode mode = Mode::none;
  Bytes capacity{80'000'000'000};
  Flops work{1e12};
  std::optional<Watts> power;
  std::vector<Link> links;
  std::vector<std::int64_t> sizes{1, 2};
  std::map<std::string, FlopsPerSecond> peak;
  Algorithm algorithm;
  Node recompute;  // a word or a list of words
  std::optional<Data> twin;
};
inline void describe(Fields<Scenario>& f) {
  f.field("model", &Scenario::model).required().doc("name of a model");
  f.section("data", &Scenario::data).doc("what is trained on");
  f.field("mode", &Scenario::mode)
      .one_of({{"none", Mode::none}, {"selective", Mode::selective}, {"full", Mode::full}});
  f.field("capacity", &Scenario::capacity).at_least(Bytes(1'000'000)).doc("memory of a device");
  f.field("work", &Scenario::work);
  f.field("power", &Scenario::power).at_most(Watts(2000));
  f.list("links", &Scenario::links);
  f.list("sizes", &Scenario::sizes).at_least(1).at_least_items(1);
  f.map("peak", &Scenario::peak).positive();
  f.section("algorithm", &Scenario::algorithm);
  f.open("recompute", &Scenario::recompute);
  f.section("twin", &Scenario::twin);
}

// A document in which every number needs a source.
struct Gpu {
  std::string name;
  Sourced<Bytes> capacity;
  Sourced<BytesPerSecond> bandwidth;
  int count = 1;
  std::map<std::string, Sourced<FlopsPerSecond>> peak;
  Sourced<double> achieved{0.8};
};
inline void describe(Fields<Gpu>& f) {
  f.field("name", &Gpu::name).required();
  f.field("capacity", &Gpu::capacity).required();
  f.field("bandwidth", &Gpu::bandwidth);
  f.field("count", &Gpu::count).at_least(1);
  f.map("peak", &Gpu::peak);
  f.field("achieved", &Gpu::achieved).between(0, 1);
}

// The least that reads as a Scenario.
inline const char* const minimal = "model: tiny\ndata: {sequence: 8}\nalgorithm: {name: ddp}\n";

// what() of the error that reading a Scenario gives, or "" when it can be read.
inline std::string failure(const std::string& text, const std::vector<std::string>& settings = {}) {
  try {
    Document document = Document::parse_text(text, "case.yaml");
    for (const std::string& setting : settings) document.set(setting);
    read<Scenario>(document);
    return "";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

inline Scenario scenario(const std::string& text, const std::vector<std::string>& settings = {}) {
  Document document = Document::parse_text(text, "case.yaml");
  for (const std::string& setting : settings) document.set(setting);
  return read<Scenario>(document);
}

}  // namespace orrery::sample
