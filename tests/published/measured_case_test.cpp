// Reading measured cases: heads, defaults, sizes, and what is wrong with a file or a value.
#include <doctest/doctest.h>

#include "backend/core/text.hpp"
#include "scenarios/published/not_scored.hpp"
#include "tests/published/case_files.hpp"

using namespace orrery;

TEST_CASE("defaults and stack of the head hold for every case, and the case wins") {
  const MeasuredFile file = file_of(
      "source: {title: A table, repo: some/where}\n"
      "stack: ours\n"
      "defaults: {gpu: A100, seq_len: 1024, gpus: 8}\n"
      "cases:\n"
      "- {id: a, kind: train_step, iter_s: 0.5}\n"
      "- {id: b, kind: train_step, gpu: H100, seq_len: 2048, stack: theirs, odd_key: [1, 2]}\n");
  CHECK(file.title == "A table");
  CHECK(file.repo == "some/where");
  REQUIRE(file.cases.size() == 2);
  CHECK(word(file.cases[0].gpu) == "A100");
  CHECK(file.cases[0].seq_len == 1024);
  CHECK(word(file.cases[0].stack) == "ours");
  CHECK(file.cases[0].iter_s == 0.5);
  CHECK(word(file.cases[1].gpu) == "H100");
  CHECK(file.cases[1].seq_len == 2048);
  CHECK(file.cases[1].gpus == 8);
  CHECK(word(file.cases[1].stack) == "theirs");
  for (const MeasuredCase& c : file.cases) CHECK(c.unreadable.empty());
}

TEST_CASE("the form of a file is checked as a whole, with places") {
  try {
    file_of(
        "cases:\n"
        "- {id: a, kind: gemm}\n"
        "- {kind: gemm}\n"
        "- {id: b}\n"
        "- {id: a, kind: gemm}\n");
    FAIL("accepted");
  } catch (const ConfigError& error) {
    REQUIRE(error.messages.size() == 3);
    CHECK(error.messages[0].line == 3);
    CHECK(error.messages[0].text.find("'id'") != std::string::npos);
    CHECK(error.messages[1].line == 4);
    CHECK(error.messages[1].text.find("'kind'") != std::string::npos);
    CHECK(error.messages[2].line == 5);
    CHECK(error.messages[2].text == "two cases have the id 'a'");
  }
  CHECK_THROWS_AS(file_of("source: {title: no cases}\n"), ConfigError);
  CHECK_THROWS_AS(file_of("cases: [\n"), ConfigError);
  CHECK_THROWS_AS(file_of("defaults: [gpu]\ncases:\n- {id: a, kind: gemm}\n"), ConfigError);
}

TEST_CASE("a value that cannot be read costs its own case alone, and says where it stands") {
  const MeasuredFile file = file_of(
      "cases:\n"
      "- {id: a, kind: train_step, iter_s: fast}\n"
      "- {id: b, kind: train_step, iter_s: 1.0}\n");
  CHECK(file.cases[0].unreadable.starts_with("2:37: "));
  CHECK(file.cases[1].unreadable.empty());
  const Prediction p = predictor().predict(file, file.cases[0]);
  CHECK(p.skipped.starts_with("cannot be read: 2:37: "));
}

TEST_CASE("a size may be a product of other sizes") {
  const auto size = [](const std::string& text) {
    const MeasuredFile file =
        file_of("cases:\n- {id: a, kind: x, hidden: 4096, heads: 32, ffn_hidden: " + text + "}\n");
    return size_of(file.cases[0].ffn_hidden, file.cases[0]);
  };
  CHECK(size("16384") == 16384);
  CHECK(size("4*hidden") == 16384);
  CHECK(size("hidden * 4") == 16384);
  CHECK(size("8/3*hidden") == 10923);
  CHECK(size("128*heads") == 4096);
  CHECK(size("1.1e4") == 11000);
  CHECK_FALSE(size("null"));
  for (const char* wrong : {"wide", "4*", "4**2", "4*width", "0", "-1", "1/0", "1e300", "[4]"})
    CHECK_THROWS_AS(size(wrong), NotScored);
}

TEST_CASE("an alias matches without regard to case, with '*' for any characters") {
  CHECK(matches("A100", "a100"));
  CHECK_FALSE(matches("A100", "A100-SXM"));
  CHECK(matches("A100*", "A100"));
  CHECK(matches("*HDR*", "NVLink3+8xHDR200"));
  CHECK(matches("a*b*c", "axxbyybzc"));
  CHECK_FALSE(matches("a*b*c", "axxbyyb"));
  CHECK(matches("*", ""));
  CHECK_FALSE(matches("", "x"));
}

TEST_CASE("the committed files can all be read, without a value that is not understood") {
  std::size_t cases = 0;
  for (const std::string name :
       {"vtrain-multi", "zero-bubble", "korthikanti-2022", "nccl-multinode", "full-runs",
        "megatron-sc21", "torchtitan", "low-comm-misc", "reliability"}) {
    const MeasuredFile file = read_measured_file(std::string(ORRERY_SOURCE_DIR) +
                                                 "/scenarios/published/" + name + ".yaml");
    CHECK(file.name == name + ".yaml");
    CHECK_FALSE(file.title.empty());
    for (const MeasuredCase& c : file.cases) CHECK_MESSAGE(c.unreadable.empty(), c.id);
    cases += file.cases.size();
  }
  CHECK(cases == 55 + 59 + 39 + 72 + 31 + 22 + 24 + 19 + 32);
}
