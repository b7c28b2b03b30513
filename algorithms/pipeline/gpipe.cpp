#include "algorithms/pipeline/schedule.hpp"

namespace orrery {

StageSchedule gpipe(int /*stage*/, int /*stages*/, int micro_batches) {
  return {{{{Work::forward, 0, 0}}, micro_batches}, {{{Work::backward, 0, 0}}, micro_batches}};
}

}  // namespace orrery
