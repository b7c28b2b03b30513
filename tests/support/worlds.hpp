// One rank program in both worlds: run it in sim (each time in a process of its own) and on the
// CPU, and compare what came of it.
#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/checkpoint.hpp"
#include "backend/cpu/bodies.hpp"
#include "backend/cpu/world.hpp"
#include "backend/rank.hpp"
#include "backend/world.hpp"
#include "platforms/machine.hpp"
#include "sim/world.hpp"
#include "tests/support/forked.hpp"
#include "tests/support/toy.hpp"

namespace orrery {

struct WorldResult {
  std::optional<Error> error;                     // of the run; then the rest is empty
  std::vector<RankNotes> notes;                   // by rank
  std::vector<std::int64_t> peaks, host_peaks;    // by rank, bytes
  std::vector<std::string> channels;              // "rank group/lane kind calls bytes", sorted
  std::vector<std::vector<std::uint64_t>> steps;  // by rank: when each step ended, in ps
  std::string decisions;                          // as text, when recorded
  std::uint64_t end = 0;                          // ps
  std::string trace;                              // sim, when asked for
  std::vector<double> noted() const {             // of all ranks, in order
    std::vector<double> all;
    for (const RankNotes& n : notes) all.insert(all.end(), n.values.begin(), n.values.end());
    return all;
  }
};

// The text of its error, for messages of tests.
inline std::string why(const WorldResult& result) {
  return result.error ? result.error->what() : "no error";
}

struct WorldSetup {
  WorldOptions options;
  std::vector<std::pair<std::string, World::ServiceProgram>> services;
  UniformSpec machine;  // gpus: filled in
  Fidelity fidelity = Fidelity::analytic;
  bool host_clock = false;
  bool trace = false;
  std::optional<Throttle> throttle;
};

// `ranks` along one axis, with values; messages take 1 us and 1 GB/s in sim.
inline WorldSetup setup_for(int ranks, Axis axis = Axis::replicate) {
  WorldSetup setup;
  setup.options.grid.set(axis, ranks);
  setup.options.real_values = true;
  setup.options.bodies = &cpu_bodies();
  setup.machine.alpha = Time(1'000'000);
  setup.machine.bandwidth = BytesPerSecond(1e9);
  return setup;
}

inline WorldSetup recording(WorldSetup setup) {
  setup.options.decisions = DecisionMode::record;
  return setup;
}

// Follows the decisions of another run, in whichever world it was.
inline WorldSetup replaying(WorldSetup setup, const WorldResult& recorded) {
  setup.options.decisions = DecisionMode::replay;
  setup.options.replay = decisions_from_text(recorded.decisions, "recorded");
  return setup;
}

namespace detail {

inline WorldResult run_world(World& world, const WorldSetup& setup, const SharedProgram& program) {
  WorldResult result;
  std::vector<RankNotes> notes(static_cast<std::size_t>(setup.options.grid.size()));
  for (const auto& [name, service] : setup.services) world.add_service(name, service);
  RunReport report;
  try {
    report =
        world.run([&](Rank& rank) { program(rank, notes[static_cast<std::size_t>(rank.id())]); });
  } catch (const Error& error) {
    result.error = error;
    return result;
  }
  result.notes = std::move(notes);
  for (std::size_t r = 0; r < report.ranks.size(); ++r) {
    const RankReport& rank = report.ranks[r];
    result.peaks.push_back(rank.peak.value);
    result.host_peaks.push_back(rank.host_peak.value);
    for (const ChannelReport& c : rank.channels)
      result.channels.push_back(std::to_string(r) + " " + c.group + "/" + c.lane + " " +
                                name(c.use.kind) + " " + std::to_string(c.use.calls) + " " +
                                std::to_string(c.use.bytes.value));
    result.steps.emplace_back();
    for (const StepMark& mark : rank.steps) result.steps.back().push_back(mark.at.picoseconds);
  }
  std::sort(result.channels.begin(), result.channels.end());
  if (setup.options.decisions == DecisionMode::record) result.decisions = to_text(report.decisions);
  result.end = report.end.picoseconds;
  return result;
}

// How a result comes back from a child process; in tests/parity/worlds.cpp.
std::string to_text(const WorldResult& result);
WorldResult from_text(const std::string& text);

}  // namespace detail

// On this machine's CPU, in this process.
inline WorldResult run_in_cpu(const WorldSetup& setup, const SharedProgram& program,
                              CpuOptions cpu = {}) {
  if (!cpu.throttle) cpu.throttle = setup.throttle;
  const auto world = make_cpu_world(setup.options, cpu);
  return detail::run_world(*world, setup, program);
}

// In the simulated world, in a child process; what `program` captures it changes there alone.
inline WorldResult run_in_sim(const WorldSetup& setup, const SharedProgram& program) {
  const std::string text = in_child([&] {
    UniformSpec spec = setup.machine;
    spec.gpus = setup.options.grid.size();
    const UniformMachine machine(spec);
    StringTraceSink trace;
    SimOptions sim;
    sim.machine = &machine;
    sim.fidelity = setup.fidelity;
    sim.host_clock = setup.host_clock;
    sim.trace = setup.trace ? &trace : nullptr;
    sim.throttle = setup.throttle;
    const auto world = make_sim_world(setup.options, sim);
    WorldResult result = detail::run_world(*world, setup, program);
    result.trace = trace.text();
    return detail::to_text(result);
  });
  return detail::from_text(text);
}

}  // namespace orrery
