// Activations that Korthikanti et al. 2022 (arXiv 2205.05198) state for four models, figures 1
// and 7.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/published/case_files.hpp"

using namespace orrery;

TEST_CASE("activations are those of figure 1 in GiB, and those of figure 7 as read off it") {
  const MeasuredFile file = read_measured_file(std::string(ORRERY_SOURCE_DIR) +
                                               "/scenarios/published/korthikanti-2022.yaml");
  int whole = 0, relative = 0;
  for (const MeasuredCase& c : file.cases) {
    if (c.kind != "memory") continue;
    CAPTURE(c.id);
    const Prediction p = predictor().predict(file, c);
    CHECK(p.skipped == "");
    REQUIRE(p.predicted);
    if (p.unit == "GiB") {
      CHECK(*p.predicted == doctest::Approx(p.measured).epsilon(1e-12));
      ++whole;
    } else {
      CHECK(std::fabs(*p.predicted - p.measured) < 0.0015);  // read off the bars of a plot
      ++relative;
    }
  }
  CHECK(whole == 8);
  CHECK(relative == 16);
}

TEST_CASE("memory that is not that of activations is not scored") {
  CHECK(prediction_of("kind: memory, model: RevNet50, micro_batch: 64, mem_gb: 44.5").skipped ==
        "no memory of activations is stated");
}
