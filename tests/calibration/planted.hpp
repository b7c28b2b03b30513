// Measurements of a machine whose times are known, in place of a real one.
#pragma once

#include "calibration/kernel_points.hpp"
#include "calibration/machine_facts.hpp"
#include "calibration/measurements.hpp"
#include "platforms/measured.hpp"

namespace orrery {

constexpr double planted_rate = 1e9;  // units of work per second, of every class

// Every kernel of a calibration takes work / planted_rate seconds, on each number of busy threads
// that many times as long; held-back points take `held_back` times that. Three repetitions: 10 %
// below, at, and 10 % above.
inline Measurements planted_machine(bool quick, double held_back = 1) {
  Measurements out;
  for (const int busy : {1, 2})
    for (const KernelPoint& point : kernel_points(quick)) {
      const KernelPlace place = *place_of(point.kernel);
      KernelSamples s;
      s.kernels = place.kernels;
      s.busy = busy;
      s.held_back = point.held_back;
      s.axes.assign(place.axes.begin(), place.axes.end());
      s.at.assign(place.at.begin(),
                  place.at.begin() + static_cast<std::ptrdiff_t>(place.axes.size()));
      std::vector<MeasuredAxisSpec> axes;
      for (const std::string& name : s.axes) axes.push_back({name, {1}});
      const double time =
          work_at(axes, s.at) / planted_rate * busy * (point.held_back ? held_back : 1);
      s.seconds = {0.9 * time, 1.1 * time, time};
      const Cost c = cost(point.kernel);
      s.bytes = static_cast<double>((c.read + c.written).value);
      s.flops = c.executed.value;
      out.kernels.push_back(std::move(s));
    }
  // 1 us and 1 GB/s; between its sizes the message is slower than the table would say.
  for (const std::int64_t size : {8, 1000, 100'000})
    for (const Collective kind : {Collective::all_reduce, Collective::send})
      out.collectives.push_back(
          {kind, 2, Bytes(size), false, {1e-6 + static_cast<double>(size) * 1e-9}});
  out.host = {{1e-7}, {2e-7}, {3e-6}, {4e-6}, {5e-7}};
  return out;
}

inline MachineFacts planted_facts() {
  return {"Planted(R) Machine @ 1.00GHz", "Linux 6.1", "2026-01-31", 4, Bytes(8'000'000'000)};
}

}  // namespace orrery
