// Bubble rates of pipelines: those that Qi et al. 2024 (arXiv 2401.10241, table 5) calculated from
// stage times that they measured.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/published/case_files.hpp"

using namespace orrery;

TEST_CASE("bubble rates are those that the zero bubble paper calculated, within 0.002") {
  const MeasuredFile file =
      read_measured_file(std::string(ORRERY_SOURCE_DIR) + "/scenarios/published/zero-bubble.yaml");
  int scored = 0;
  for (const MeasuredCase& c : file.cases) {
    if (c.kind != "bubble") continue;
    CAPTURE(c.id);
    const Prediction p = predictor().predict(file, c);
    if (word(c.model) == "GPT-1.5B") {
      CHECK(p.skipped == "no stage times of this model were printed");
      continue;
    }
    CHECK(p.skipped == "");
    CHECK(p.unit == "share of the step");
    REQUIRE(p.predicted);
    CHECK(std::fabs(*p.predicted - p.measured) < 0.002);
    ++scored;
  }
  CHECK(scored == 25);
}

TEST_CASE("a bubble rate needs the times of a stage of its model") {
  const std::string head =
      "cases:\n- {id: a, kind: bubble, model: M, pp: 4, num_microbatches: 8, "
      "bubble_rate: 0.25, pp_schedule: 1F1B}\n";
  const std::string times =
      "- {id: b, kind: stage_time, model: M, num_microbatches: 8, t_fwd_s: 1, "
      "t_bwd_input_s: 1, t_bwd_weight_s: 1}\n";
  const auto predict = [](const std::string& yaml) {
    const MeasuredFile file = file_of(yaml);
    return predictor().predict(file, file.cases.at(0));
  };
  CHECK(predict(head).skipped == "no stage times of this model were printed");
  const Prediction p = predict(head + times);
  REQUIRE(p.predicted);
  CHECK(*p.predicted == doctest::Approx(9.0 / 33));  // (p - 1) / (m + p - 1)
  std::string strange = head;
  strange.replace(strange.find("1F1B"), 4, "ZB-9");
  CHECK(predict(strange + times).skipped == "pp_schedule 'ZB-9' has no alias");
}
