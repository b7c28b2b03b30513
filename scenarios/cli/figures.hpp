// What the figures of a result mean, as `orrery explain FIGURE` tells it.
#pragma once

#include <vector>

namespace orrery::cli {

struct Figure {
  const char* name;  // its key in the result's JSON
  const char* unit;
  const char* meaning;
};
// Every key of a result, in its order, and a few terms of the field.
const std::vector<Figure>& figures();

}  // namespace orrery::cli
