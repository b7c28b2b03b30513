// Stochastic gradient push on the nodes that its authors used.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "tests/cli/process.hpp"
#include "tests/support/near.hpp"

using namespace orrery;
using Json = nlohmann::ordered_json;

namespace {

struct Step {
  double seconds, compute;
  double waiting() const { return seconds - compute; }
};

Step step_of(const std::string& algorithm) {
  const Finished run =
      orrery_with({"simulate", "scenarios/resnet-50-sgp.yaml", "--json", "--quiet", "--set",
                   "algorithm={name: " + algorithm + ", optimizer: {name: momentum, lr: 0.1}}"});
  REQUIRE_MESSAGE(run.exit == 0, run.err);
  const Json result = run.json<Json>();
  return {result["step_time_s"].get<double>(), result["time"]["compute_s"].get<double>()};
}

// Of 90 epochs of ImageNet (1,281,167 pictures) with 32 x 256 pictures a step.
double hours(const Step& step) { return 90.0 * 1'281'167 / (32 * 256) * step.seconds / 3600; }

}  // namespace

// Over 10 Gb/s, of which TCP reaches nine tenths.
TEST_CASE("overlap-SGP hides the message that SGP waits for, and DDP hides a part of its sums") {
  const Step ddp = step_of("ddp"), sgp = step_of("sgp"), overlap = step_of("overlap-sgp");
  const double message = 25'557'032 * 4 / (0.9 * 1.25e9);
  CHECK(sgp.waiting() == near(message, 0.02));
  CHECK(overlap.waiting() < 0.01 * overlap.seconds);
  CHECK(ddp.waiting() > 0);
  CHECK(ddp.waiting() < 5 * message);
}

// Assran et al. 2019 (arXiv 1811.10792): 90 epochs of ImageNet (1,281,167 pictures) with 32 x 256
// pictures a step take about 1.6 hours by overlap-SGP, and more than 5 with all-reduce. Their code
// (facebookresearch/stochastic_gradient_push, gossip_module/ar_distributed.py) sums one vector
// behind the backward pass, and the TCP backend of their PyTorch does so by recursive doubling:
// five messages, of which nothing is hidden. The forecast has the ratio of the two times. Both are
// short by a factor of 1.8 to 1.9: computing takes 0.23 s of the 0.41 that an overlapped step is
// published to take, for reasons that the source does not tell.
TEST_CASE("all-reduce as the authors' code does it takes three times as long as overlap-SGP") {
  const Step sums = step_of("ddp, bucket: 1GB, first_bucket: 1GB"),
             overlap = step_of("overlap-sgp");
  const double message = 25'557'032 * 4 / (0.9 * 1.25e9);
  CHECK(sums.waiting() == near(5 * message, 0.02));
  CHECK(sums.seconds / overlap.seconds == near(5 / 1.6, 0.06));
  CHECK(hours(overlap) == near(1.6 / 1.8, 0.1));
  MESSAGE("90 epochs: " << hours(sums) << " h by all-reduce, " << hours(overlap)
                        << " h overlapped");
}
