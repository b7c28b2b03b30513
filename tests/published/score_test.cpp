// The statistics of the scoreboard, on cases with planted errors.
#include <doctest/doctest.h>

#include "scenarios/published/score.hpp"

using namespace orrery;

namespace {

ScoredCase scored(const std::string& file, double measured, double predicted) {
  ScoredCase c;
  c.id = "x";
  c.file = file;
  c.kind = "gemm";
  c.unit = "s";
  c.measured = measured;
  c.predicted = predicted;
  return c;
}

ScoredCase skipped(const std::string& file, const std::string& why) {
  ScoredCase c;
  c.file = file;
  c.kind = "gemm";
  c.skipped = why;
  return c;
}

}  // namespace

TEST_CASE("errors are predicted over measured less one, and their statistics are exact") {
  std::vector<ScoredCase> cases;
  for (const double predicted : {3.0, 2.25, 1.75, 1.0}) cases.push_back(scored("a", 2, predicted));
  cases.push_back(skipped("a", "why"));
  const std::vector<FileScore> scores = score_files(cases);
  REQUIRE(scores.size() == 1);
  const FileScore& s = scores[0];
  CHECK(s.cases == 5);
  CHECK(s.scored == 4);
  CHECK(*s.mean_abs_error == 0.3125);    // 0.5, 0.125, 0.125, 0.5
  CHECK(*s.median_abs_error == 0.3125);  // between 0.125 and 0.5
  CHECK(*s.bias == 0);                   // between -0.125 and 0.125
  CHECK(*s.max_abs_error == 0.5);
  CHECK(*s.within_10 == 0);
  CHECK_FALSE(s.band_coverage);
}

TEST_CASE("an error of exactly a tenth is within 10 %") {
  const FileScore s =
      score_files({scored("a", 10, 11), scored("a", 8, 10), scored("a", 4, 4)}).at(0);
  CHECK(*s.within_10 == doctest::Approx(2.0 / 3));
  CHECK(*s.median_abs_error == doctest::Approx(0.1));
}

TEST_CASE("coverage counts the measurements that lie in their band, where there is one") {
  std::vector<ScoredCase> cases{scored("a", 2, 2), scored("a", 2, 2), scored("a", 2, 2)};
  cases[0].low = 1.5, cases[0].high = 2;
  cases[1].low = 2.1, cases[1].high = 3;
  CHECK(*score_files(cases).at(0).band_coverage == 0.5);
}

TEST_CASE("there is a row per file and kind, in the order of the cases") {
  std::vector<ScoredCase> cases{scored("b", 1, 1), scored("a", 1, 1), scored("b", 1, 1)};
  cases[2].kind = "attention";
  const auto rows = score_files(cases);
  REQUIRE(rows.size() == 3);
  CHECK(rows[0].name == "b");
  CHECK(rows[1].name == "a");
  CHECK(rows[2].kind == "attention");
}

TEST_CASE("a file without a scored case has no figures, not zeros") {
  const FileScore s = score_files({skipped("a", "x")}).at(0);
  CHECK(s.scored == 0);
  CHECK_FALSE(s.mean_abs_error);
  CHECK_FALSE(s.median_abs_error);
  CHECK_FALSE(s.bias);
  CHECK_FALSE(s.max_abs_error);
  CHECK_FALSE(s.within_10);
}

TEST_CASE("reasons come with their numbers, the most frequent first, then by text") {
  const auto reasons = skip_reasons({skipped("a", "z"), skipped("a", "y"), scored("a", 1, 1),
                                     skipped("b", "z"), skipped("b", "x")});
  REQUIRE(reasons.size() == 3);
  CHECK(reasons[0].reason == "z");
  CHECK(reasons[0].cases == 2);
  CHECK(reasons[1].reason == "x");
  CHECK(reasons[2].reason == "y");
}
