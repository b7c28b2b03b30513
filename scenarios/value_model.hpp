// The value model of a scenario: a small model that is trained in the large one's stead.
#pragma once

#include <memory>
#include <string>

#include "scenarios/scenario.hpp"

namespace orrery {

// The same training, of the value model with values: as many replicas, micro-batches and steps; and
// as many buckets and fragments, whose sizes go with the model's. `timed` has been read and checked
// but for its `value_model`, which it has. Throws ConfigError, at `mark`, with everything that is
// wrong with the value model, or with the timed scenario beside one.
std::shared_ptr<const Scenario> read_value_model(const Scenario& timed,
                                                 const std::string& data_root, const Mark& mark);

}  // namespace orrery
