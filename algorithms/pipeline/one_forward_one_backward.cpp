#include <algorithm>

#include "algorithms/pipeline/schedule.hpp"

namespace orrery {

StageSchedule one_forward_one_backward(int stage, int stages, int micro_batches) {
  const int warm_up = std::min(stages - 1 - stage, micro_batches);
  const int steady = micro_batches - warm_up;
  return {{{{Work::forward, 0, 0}}, warm_up},
          {{{Work::forward, 0, warm_up}, {Work::backward, 0, 0}}, steady},
          {{{Work::backward, 0, steady}}, warm_up}};
}

}  // namespace orrery
