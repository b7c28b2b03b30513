// What tests of platforms share: this project's platform files, and the first ranks of a world.
#pragma once

#include <numeric>
#include <vector>

#include "platforms/platform.hpp"

inline const orrery::PlatformFolder folder(ORRERY_SOURCE_DIR);

inline std::vector<int> first(int n) {
  std::vector<int> out(static_cast<std::size_t>(n));
  std::iota(out.begin(), out.end(), 0);
  return out;
}
