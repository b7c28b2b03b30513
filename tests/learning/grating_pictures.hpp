// A set of pictures that a small network learns to tell apart, but not perfectly: gratings in ten
// directions, of random phase, wavelength and colours, under noise. Made here, the same everywhere.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <string>

#include "backend/core/philox.hpp"

namespace orrery {

// Records as Kernel::picture_batch reads them, of ten classes in turn. `set` keeps sets apart.
inline std::shared_ptr<const std::string> grating_pictures(int records, int size, std::uint64_t set,
                                                           double noise) {
  constexpr double pi = 3.14159265358979323846;
  constexpr int classes = 10;
  const Philox numbers(set, Purpose::user);
  std::uint64_t at = 0;
  const auto uniform = [&] {
    return static_cast<double>(numbers.below(at++, 1U << 24U)) / (1U << 24U);
  };
  std::string all;
  for (int record = 0; record < records; ++record) {
    const int label = record % classes;
    const double angle = pi * label / classes, phase = 2 * pi * uniform();
    const double wave = 2 * pi / (3.0 + 2.0 * uniform());
    std::array<double, 3> strength{};
    for (double& s : strength) s = 20 + 40 * uniform();
    all.push_back(static_cast<char>(label));
    for (const double s : strength)
      for (int row = 0; row < size; ++row)
        for (int column = 0; column < size; ++column) {
          const double along = row * std::sin(angle) + column * std::cos(angle);
          const double value = 128 + s * std::sin(wave * along + phase) +
                               noise * static_cast<double>(numbers.normal(at++));
          all.push_back(static_cast<char>(std::lround(std::clamp(value, 0.0, 255.0))));
        }
  }
  return std::make_shared<const std::string>(all);
}

}  // namespace orrery
