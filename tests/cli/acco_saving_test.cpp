// What ACCO saves on the nodes that its paper trained on: what ZeRO-1 waits, and no more.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "tests/cli/process.hpp"
#include "tests/support/near.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

Json simulated(const std::string& model, const std::string& algorithm) {
  const Finished run = orrery_with({"simulate", "scenarios/acco-" + model + ".yaml", "--json",
                                    "--quiet", "--set", "algorithm={name: " + algorithm + "}"});
  REQUIRE_MESSAGE(run.exit == 0, run.err);
  return run.json<Json>();
}

double exposed_share(const Json& result) {
  return result["time"]["exposed_communication_s"].get<double>() /
         result["step_time_s"].get<double>();
}

}  // namespace

// The paper has 25 and 87 %.
TEST_CASE(
    "ACCO saves the time that ZeRO-1 waits, 15 % of a small model's and 55 % of a large one's") {
  for (const auto& [model, ours] : {std::pair{"125m", 0.15}, {"2.7b", 0.55}}) {
    CAPTURE(std::string(model));
    const Json acco = simulated(model, "acco"), zero = simulated(model, "zero, stage: 1");
    const double saving =
        1 - zero["tokens_per_s"].get<double>() / acco["tokens_per_s"].get<double>();
    CHECK(exposed_share(acco) < 0.001);
    CHECK(saving == near(exposed_share(zero), 0.03));
    CHECK(saving == near(ours, 0.05));
  }
}
