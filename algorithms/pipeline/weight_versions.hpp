// Versions of a device's parameters, for schedules that never drain: a micro-batch's forward and
// backward use the same version, while updates go on (weight stashing; Harlap et al. 2018, arXiv
// 1806.03377, section 3.3).
//
// Version k is what k updates have made. The micro-batches of step t, whose gradient makes version
// t + 1, use version max(0, t - delay); so the current version and the `delay` before it are kept.
#pragma once

#include <algorithm>
#include <vector>

#include "algorithms/flat_parameters.hpp"

namespace orrery {

class WeightVersions {
 public:
  // Allocates `delay` versions beside the current one.
  WeightVersions(Rank& rank, Stream& compute, const FlatParameters& flat, int delay);
  // What the micro-batches of a step use: a version of all parameters.
  const Tensor& of(std::int64_t step) const;
  // How many updates it lacks.
  std::int64_t age(std::int64_t step) const { return current_ - version(step); }
  // An update of the current version follows on `stream`.
  void keep(Stream& stream);
  void visit(Archive& archive);

 private:
  std::int64_t version(std::int64_t step) const {
    return std::max<std::int64_t>(0, step - std::ssize(older_));
  }
  const FlatParameters& flat_;
  std::vector<Tensor> older_;  // version k in place k mod delay
  std::int64_t current_ = 0;
};

}  // namespace orrery
