#include "scenarios/cli/band.hpp"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>

#include "scenarios/cli/simulation.hpp"

namespace orrery::cli {

namespace {

// The scenario at one end: without values, which cost time and no step time, and without files.
Scenario at_end(const Scenario& scenario, int side) {
  Scenario moved = scenario;
  moved.machines = at_band_end(scenario.machines, side);
  moved.run.values = RunValues::virtual_values;
  moved.run.record.reset();
  return moved;
}

// In a process that is forked for it: writes the step time to `to` and ends.
[[noreturn]] void simulate_end(const Scenario& scenario, int side, int to) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) std::signal(signal, SIG_DFL);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  bool written = false;
  try {
    Arguments quiet;
    quiet.quiet = true;
    const double step = simulate_scenario(at_end(scenario, side), quiet, "").result.step_time_s;
    written = ::write(to, &step, sizeof step) == static_cast<ssize_t>(sizeof step);
  } catch (...) {
    written = false;  // the simulation proper will say what is wrong
  }
  _exit(written ? 0 : 1);
}

std::optional<double> step_time_at(const Scenario& scenario, int side) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) return std::nullopt;
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) simulate_end(scenario, side, ends[1]);
  close(ends[1]);
  double step = 0;
  const bool read_all =
      child > 0 && ::read(ends[0], &step, sizeof step) == static_cast<ssize_t>(sizeof step);
  close(ends[0]);
  int status = 1;
  if (child > 0) waitpid(child, &status, 0);
  if (!read_all || status != 0) return std::nullopt;
  return step;
}

}  // namespace

std::optional<Band> band_of(const Scenario& scenario) {
  if (!has_measured_error(scenario.machines)) return std::nullopt;
  const auto low = step_time_at(scenario, -1), high = step_time_at(scenario, 1);
  if (!low || !high) return std::nullopt;
  return Band{std::min(*low, *high), std::max(*low, *high)};
}

}  // namespace orrery::cli
