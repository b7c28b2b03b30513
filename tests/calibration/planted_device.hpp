// A device whose times are known, in the simulated world, as the benches run programs on it.
#pragma once

#include <sstream>
#include <string>

#include "calibration/device_bench.hpp"
#include "platforms/machine.hpp"
#include "platforms/measured.hpp"
#include "sim/world.hpp"
#include "tests/calibration/planted.hpp"
#include "tests/support/forked.hpp"

namespace orrery {

constexpr double planted_attention = 4;  // times as slow as other classes

// Every kernel with a class takes its work over planted_rate, every other its bytes.
inline Time planted_time(const Kernel& kernel, const Cost& cost) {
  const std::optional<KernelPlace> place = place_of(kernel);
  double work = place ? place->work : static_cast<double>((cost.read + cost.written).value);
  if (place && place->kernels.starts_with("attention")) work *= planted_attention;
  return to_time(Seconds(work / planted_rate));
}

// 1 us and 1 GB/s between devices.
inline UniformMachine planted_devices(int devices) {
  UniformSpec spec;
  spec.gpus = devices;
  spec.alpha = Time(1'000'000);
  spec.bandwidth = BytesPerSecond(1e9);
  spec.kernel_time = planted_time;
  return UniformMachine(spec);
}

// The marks of steps and the losses, which are all that the benches read.
inline std::string marks_text(const RunReport& report) {
  std::ostringstream out;
  out.precision(17);
  for (std::size_t rank = 0; rank < report.ranks.size(); ++rank) {
    out << report.ranks[rank].steps.size() << "\n";
    for (const StepMark& mark : report.ranks[rank].steps)
      for (const Time time : {mark.parts.compute, mark.parts.exposed_communication,
                              mark.parts.bubble, mark.parts.overhead, mark.parts.idle})
        out << time.picoseconds << " ";
    out << report.ranks[rank].losses.size() << "\n";
    for (const auto& [step, loss] : report.ranks[rank].losses) out << step << " " << loss << " ";
  }
  return out.str();
}

inline RunReport marks_from(const std::string& text, int ranks) {
  std::istringstream in(text);
  RunReport report;
  report.ranks.resize(static_cast<std::size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) {
    std::size_t marks = 0;
    in >> marks;
    for (std::size_t i = 0; i < marks; ++i) {
      TimeParts p;
      for (Time* time : {&p.compute, &p.exposed_communication, &p.bubble, &p.overhead, &p.idle})
        in >> time->picoseconds;
      report.ranks[static_cast<std::size_t>(rank)].steps.push_back({p.total(), p});
    }
    std::size_t losses = 0;
    in >> losses;
    for (std::size_t i = 0; i < losses; ++i) {
      std::int64_t step = 0;
      double loss = 0;
      in >> step >> loss;
      report.ranks[static_cast<std::size_t>(rank)].losses[step] = loss;
    }
  }
  return report;
}

// Each run in a process of its own, as SimGrid needs it.
inline RunReport run_on(const Machine& machine, int ranks, const World::Program& program) {
  return marks_from(in_child([&] {
                      WorldOptions options;
                      options.grid.set(Axis::replicate, ranks);
                      SimOptions sim;
                      sim.machine = &machine;
                      sim.fidelity = Fidelity::analytic;
                      return marks_text(make_sim_world(options, sim)->run(program));
                    }),
                    ranks);
}
inline RunReport run_on_planted(int ranks, const World::Program& program) {
  return run_on(planted_devices(ranks), ranks, program);
}

inline DeviceBenchOptions planted_bench(int devices = 1) {
  DeviceBenchOptions options;
  options.run = run_on_planted;
  options.devices = devices;
  options.quick = true;
  options.shortest_s = 1e-6;
  options.memory = Bytes(1 << 20);
  return options;
}

}  // namespace orrery
