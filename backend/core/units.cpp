#include "backend/core/units.hpp"

#include <cmath>
#include <string>

#include "backend/core/error.hpp"

namespace orrery {

void refuse_duration(Seconds s) {
  const std::string length = s.value < 1e20
                                 ? std::to_string(static_cast<long long>(s.value / 86400)) + " days"
                                 : std::string("without end");
  throw Error(Category::config,
              "a duration is " + length + ", and time counts to 208 days: something is too slow");
}

}  // namespace orrery
