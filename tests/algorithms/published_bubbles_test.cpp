// The bubble rates that Qi et al. 2024 (ICLR, arXiv 2401.10241, table 5) calculated from stage
// times that they measured (their appendix): 1 - m (F + Bi + W) / the longest span of a device.
#include <doctest/doctest.h>

#include <cmath>
#include <string>

#include "algorithms/pipeline/timeline.hpp"

namespace orrery {
namespace {

struct Stage {
  double forward, backward_input, backward_weight, communication;  // ms
};
constexpr Stage small{29.935, 29.621, 19.388, 0.535};     // 6.2B, p = 8
constexpr Stage medium{11.347, 11.248, 8.132, 0.377};     // 14.6B, p = 16
constexpr Stage large_96{10.419, 10.207, 7.715, 0.408};   // 28.3B, p = 32, m = 96
constexpr Stage large_128{10.408, 10.204, 7.703, 0.408};  // m = 128
constexpr Stage large_256{10.402, 10.248, 7.698, 0.46};   // m = 256

struct Rate {
  const char* schedule;
  int devices, micro_batches;
  int more;  // chunks of interleaved 1F1B, the limit of the automatic scheduler
  Stage stage;
  double rate;
};

double bubble_rate(const Rate& r) {
  PipelineShape shape{r.devices, r.micro_batches};
  const TaskTimes times{r.stage.forward, r.stage.backward_input, r.stage.backward_weight,
                        r.stage.communication};
  TaskTimes chunk = times;
  if (r.schedule == std::string("zb-auto")) {
    shape.activation_limit = r.more;
    shape.times = times;
    // A layer's activations of 34 s b h + 5 a s^2 b bytes, of which 32 s b h wait for the weight
    // gradients (the paper, section 2); a s / h = 8 in all three models.
    shape.for_weights = 32.0 / (34 + 5 * 8);
  } else if (r.more > 0) {
    shape.chunks = r.more;
    chunk = {times.forward / r.more, times.backward_input / r.more, times.backward_weight / r.more,
             times.communication};
  }
  const double ideal =
      r.micro_batches * (times.forward + times.backward_input + times.backward_weight);
  return 1 - ideal / lay_out(*make_schedule(r.schedule, shape), {chunk}).longest_span();
}

TEST_CASE("bubble rates are those that the zero bubble paper calculated, within 0.002") {
  for (const Rate& r : {
           Rate{"1f1b", 8, 64, 0, small, 0.1091},
           Rate{"interleaved-1f1b", 8, 64, 4, small, 0.032},
           Rate{"zb-auto", 8, 64, 8, small, 0.0554},
           Rate{"zb-auto", 8, 24, 16, small, 0.0029},
           Rate{"1f1b", 8, 32, 0, small, 0.1898},
           Rate{"interleaved-1f1b", 8, 32, 4, small, 0.0628},
           Rate{"zb-h2", 8, 32, 0, small, 0.0559},
           Rate{"zb-auto", 8, 32, 8, small, 0.1045},
           Rate{"zb-auto", 8, 32, 16, small, 0.0022},
           Rate{"zb-auto", 16, 48, 16, medium, 0.1397},
           Rate{"zb-auto", 16, 48, 32, medium, 0.0066},
           Rate{"1f1b", 16, 64, 0, medium, 0.2082},
           Rate{"1f1b", 16, 128, 0, medium, 0.1251},
           Rate{"zb-h1", 16, 128, 0, medium, 0.0576},
           Rate{"zb-h1", 32, 96, 0, large_96, 0.1421},
           Rate{"zb-auto", 32, 96, 64, large_96, 0.0038},
           Rate{"1f1b", 32, 128, 0, large_128, 0.2168},
           Rate{"zb-h2", 32, 128, 0, large_128, 0.049},
           Rate{"zb-auto", 32, 128, 32, large_128, 0.1106},
           Rate{"zb-auto", 32, 128, 64, large_128, 0.0029},
           Rate{"interleaved-1f1b", 32, 256, 2, large_256, 0.0624},
           Rate{"zb-h1", 32, 256, 0, large_256, 0.0594},
           Rate{"zb-h2", 32, 256, 0, large_256, 0.0257},
           Rate{"zb-auto", 32, 256, 32, large_256, 0.0594},
           Rate{"zb-auto", 32, 256, 64, large_256, 0.0018},
       }) {
    CAPTURE(r.schedule);
    CAPTURE(r.devices);
    CAPTURE(r.micro_batches);
    CHECK(std::fabs(bubble_rate(r) - r.rate) < 0.002);
  }
}

}  // namespace
}  // namespace orrery
