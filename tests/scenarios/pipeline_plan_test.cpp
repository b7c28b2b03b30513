// What a scenario may ask of a pipeline, and how it is refused.
#include <doctest/doctest.h>

#include <fmt/format.h>

#include "scenarios/scenario.hpp"
#include "tests/scenarios/root.hpp"

using namespace orrery;

namespace {

// Of an MLP with four layers: the parallel section, on four GPUs with 16 samples per step.
Document with(const std::string& parallel, int gpus = 4) {
  return Document::parse_text(
      "model: mlp-bytes\ndata: {global_batch: 16, micro_batch: 2}\nparallel: " + parallel +
          "\nplatform: {cluster: two-dgx-a100, gpus: " + std::to_string(gpus) + "}\n",
      "s.yaml");
}

std::vector<std::string> reasons(const Document& document) {
  std::vector<std::string> all;
  try {
    read_scenario(document, root);
  } catch (const ConfigError& e) {
    for (const ConfigMessage& m : e.messages) all.push_back(m.text);
  }
  return all;
}

using Reasons = std::vector<std::string>;

}  // namespace

TEST_CASE("every schedule can be asked for, petra by algorithms whose stages go on by themselves") {
  for (const char* plan :
       {"{pipeline: 4, schedule: gpipe}", "{pipeline: 4, schedule: 1f1b}",
        "{pipeline: 2, schedule: interleaved-1f1b, chunks: 2}",
        "{pipeline: 4, schedule: pipedream-2bw}", "{pipeline: 4, schedule: chimera}",
        "{pipeline: 4, schedule: zb-h1}", "{pipeline: 4, schedule: zb-h2}",
        "{pipeline: 2, schedule: zb-v}", "{pipeline: 2, schedule: v-half, chunks: 2}",
        "{pipeline: 2, schedule: v-min}", "{pipeline: 4, schedule: zb-auto, activation_limit: 3}",
        "{pipeline: 4, schedule: dualpipe}", "{pipeline: 2, schedule: dualpipev}",
        "{pipeline: 4, schedule: zb-h1, layers: [0, 2, 2, 0]}"}) {
    CAPTURE(plan);
    CHECK(reasons(with(plan)).empty());
  }
  Document one_at_a_time = with("{pipeline: 4, schedule: pipedream, vertical_sync: true}");
  one_at_a_time.set("data.global_batch=2");
  CHECK(reasons(one_at_a_time).empty());
  CHECK(reasons(with("{pipeline: 4, schedule: petra}")) ==
        Reasons{"schedule petra is an order for petra and its relatives, not for ddp"});
  for (const char* algorithm : {"petra", "reversible-backprop", "delayed-gradients", "dgl"}) {
    Document own = with("{pipeline: 4, schedule: petra}");
    own.set(fmt::format("algorithm={{name: {}}}", algorithm));
    CHECK(reasons(own).empty());
    Document other = with("{pipeline: 4, schedule: zb-h1}");
    other.set(fmt::format("algorithm={{name: {}}}", algorithm));
    CHECK(reasons(other) == Reasons{fmt::format("{} has no schedule but petra", algorithm)});
  }
}

TEST_CASE("a worker of DiLoCo may be a pipeline of PETRA, which chooses itself what to recompute") {
  Document d = with("{pipeline: 2}");
  d.set("algorithm={name: diloco, inner: {name: petra}}");
  CHECK(reasons(d).empty());
  d.set("memory.recompute=full");
  CHECK(reasons(d) == Reasons{"what a stage computes again is the inner algorithm's own choice"});
  d.set("algorithm={name: diloco, inner: {name: delayed-gradients}}");  // keeps old parameters
  CHECK(reasons(d) == Reasons{"delayed-gradients cannot train a worker of another algorithm"});
}

TEST_CASE("an impossible pipeline is refused with every reason at once") {
  CHECK(reasons(with("{pipeline: 3, schedule: dualpipe, chunks: 2, activation_limit: 2}", 6)) ==
        Reasons{"dualpipe needs at least 6 micro-batches per step, not 4",
                "4 layers of mlp-bytes do not divide into 3 stages",
                "dualpipe needs an even number of devices, not 3",
                "dualpipe has one chunk per device and pipe", "dualpipe has no limit to choose"});
  CHECK(reasons(with("{pipeline: 4, schedule: interleaved-1f1b, layers: [1, 1, 3]}")) ==
        Reasons{"interleaved-1f1b interleaves at least 2 chunks per device",
                "3 numbers of layers for 4 stages",
                "the stages have 5 layers, but mlp-bytes has 4"});
  CHECK(reasons(with("{pipeline: 4, layers: [2, 0, 1, 1]}")) == Reasons{"stage 1 has no layer"});
  CHECK(reasons(with("{pipeline: 4, schedule: pipedream}")) ==
        Reasons{"pipedream needs 1 micro-batch per step, since it updates after each, not 8"});
  CHECK(reasons(with("{pipeline: 1, chunks: 2, vertical_sync: true}")) ==
        Reasons{"a pipeline of one stage has no use for it",
                "a pipeline of one stage has no use for it"});
}

TEST_CASE("what a schedule needs is told at the key that can give it") {
  Document d = with("{pipeline: 4, schedule: zb-h2}");
  d.set("data.global_batch=8");
  try {
    read_scenario(d, root);
    FAIL("4 micro-batches are too few for zb-h2");
  } catch (const ConfigError& e) {
    REQUIRE(e.messages.size() == 1);
    CHECK(e.messages[0].text == "zb-h2 needs at least 7 micro-batches per step, not 4");
    CHECK(e.messages[0].suggestion == "use 7 or more");
    CHECK(e.messages[0].file == "--set");
  }
}
