// A calibration from end to end, in its quick form. Times are this machine's and not looked at.
#include <doctest/doctest.h>

#include <algorithm>

#include "backend/core/error.hpp"
#include "calibration/calibrate.hpp"

using namespace orrery;

TEST_CASE("a quick calibration measures every class, alone and with all ranks busy") {
  CalibrationOptions options;
  options.quick = true;
  options.ranks = 3;
  options.name = "quick";
  double share = 0;
  options.progress = [&share](const std::string&, double now) { share = now; };
  const Calibration made = calibrate_cpu(options, machine_facts());
  CHECK(share == 1);
  for (const MeasuredTableSpec& table : made.platform.gpus[0].measured) {
    CHECK((table.busy == 1 || table.busy == 3));
    for (const Seconds time : table.times) CHECK(time > Seconds(0));
  }
  for (const int members : {2, 3})
    CHECK(std::any_of(made.platform.collectives.measured.begin(),
                      made.platform.collectives.measured.end(), [&](const auto& table) {
                        return table.operation == "all_reduce" && table.members == members;
                      }));
  CHECK(made.classes.size() ==
        made.platform.gpus[0].measured.size() + made.platform.collectives.measured.size());
}

TEST_CASE("a calibration for no ranks is refused") {
  CalibrationOptions options;
  options.ranks = 0;
  CHECK_THROWS_AS(calibrate_cpu(options, machine_facts()), Error);
}
