// Short ways to run rank programs in the simulated world.
#pragma once

#include <functional>
#include <string>

#include "backend/rank.hpp"
#include "backend/world.hpp"
#include "platforms/machine.hpp"
#include "sim/world.hpp"
#include "tests/support/report_text.hpp"

namespace orrery {

inline constexpr Time operator""_us(unsigned long long n) { return Time(n * 1'000'000); }
inline constexpr Time operator""_ns(unsigned long long n) { return Time(n * 1'000); }
inline Seconds us(double n) { return Seconds(n * 1e-6); }

// A simulation about to run: fields are set, then run() is called once.
struct Simulation {
  explicit Simulation(int ranks, Axis axis = Axis::replicate) {
    machine.gpus = ranks;
    machine.alpha = 2_us;
    machine.bandwidth = BytesPerSecond(50e9);  // 20 ps a byte
    world.grid.set(axis, ranks);
  }
  RunReport run(const World::Program& program);

  UniformSpec machine;
  WorldOptions world;
  SimOptions options;
  std::vector<std::pair<std::string, World::ServiceProgram>> services;
};

// The Error that `run` throws; fails the test case when it throws none.
Error error_of(const std::function<void()>& run);

// Runs `body` in a process of its own and returns what it returns, for cases that simulate twice.
// Checks in `body` do not count: return what is to be checked.
std::string in_child(const std::function<std::string()>& body);

inline Prepared timed(Rank& rank, const char* label, double microseconds) {
  return rank.prepare(Kernel::timed(label, us(microseconds)));
}

}  // namespace orrery
