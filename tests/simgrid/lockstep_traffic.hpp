// Traffic in which many flows start, end and cross at one instant, over two fabrics.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "tests/simgrid/max_min_reference.hpp"
#include "tests/simgrid/scripted.hpp"

namespace orrery::sim {

// Links, and the way between two hosts over them.
struct Fabric {
  std::vector<double> bandwidths;
  std::function<std::vector<std::uint32_t>(std::uint32_t from, std::uint32_t to)> path;
};

inline Fabric star(std::uint32_t hosts) {
  Fabric fabric;
  for (std::uint32_t i = 0; i < 2 * hosts; ++i)
    fabric.bandwidths.push_back(i % 7 == 3 ? 25e9 : 50e9);
  fabric.path = [](std::uint32_t from, std::uint32_t to) {
    return std::vector<std::uint32_t>{2 * from, 2 * to + 1};
  };
  return fabric;
}

// Leaves of 8 hosts, 4 spines, every leaf-to-spine cable at the speed of a host: over-subscribed by
// two.
inline Fabric clos(std::uint32_t hosts) {
  Fabric fabric = star(hosts);
  const std::uint32_t leaves = hosts / 8, spines = 4, base = 2 * hosts;
  fabric.bandwidths.resize(base + 2 * leaves * spines, 50e9);
  fabric.path = [=](std::uint32_t from, std::uint32_t to) {
    std::vector<std::uint32_t> path{2 * from};
    if (from / 8 != to / 8) {
      const std::uint32_t spine = (from + to) % spines;
      path.push_back(base + 2 * ((from / 8) * spines + spine));
      path.push_back(base + 2 * ((to / 8) * spines + spine) + 1);
    }
    path.push_back(2 * to + 1);
    return path;
  };
  return fabric;
}

// 2,000 flows that start on a coarse grid of times.
inline std::vector<ReferenceFlow> lockstep_traffic(const Fabric& fabric, std::uint32_t hosts) {
  std::vector<ReferenceFlow> flows;
  for (std::uint64_t i = 0; i < 2000; ++i) {
    const auto from = static_cast<std::uint32_t>(mix(4 * i) % hosts);
    const auto to = static_cast<std::uint32_t>((from + 1 + mix(4 * i + 1) % (hosts - 1)) % hosts);
    const std::uint64_t bytes = i % 3 == 0 ? 1'000'000 : 1 + mix(4 * i + 2) % 4'000'000;
    flows.push_back({mix(4 * i + 3) % 40 * 50'000'000, bytes, fabric.path(from, to), 0});
  }
  std::stable_sort(flows.begin(), flows.end(),
                   [](const auto& a, const auto& b) { return a.start_ps < b.start_ps; });
  return flows;
}

}  // namespace orrery::sim
