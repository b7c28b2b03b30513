// One rank program in both worlds: run it in sim (each time in a process of its own) and on the
// CPU, and compare what came of it.
#pragma once

#include <algorithm>
#include <bit>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "backend/checkpoint.hpp"
#include "backend/cpu/bodies.hpp"
#include "backend/cpu/world.hpp"
#include "backend/rank.hpp"
#include "backend/world.hpp"
#include "platforms/machine.hpp"
#include "sim/world.hpp"
#include "tests/support/forked.hpp"

namespace orrery {

// What one rank's program wants to tell the test.
struct RankNotes {
  std::vector<double> values;
  std::vector<Checkpoint> checkpoints;
};

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

using SharedProgram = std::function<void(Rank&, RankNotes&)>;

struct WorldSetup {
  WorldOptions options;
  std::vector<std::pair<std::string, World::ServiceProgram>> services;
  UniformSpec machine;  // gpus: filled in
  Fidelity fidelity = Fidelity::analytic;
  bool host_clock = false;
  bool trace = false;
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

inline nlohmann::json to_json(const WorldResult& result) {
  nlohmann::json j;
  if (result.error) {
    j["error"] = {static_cast<int>(result.error->category()), result.error->message(),
                  result.error->context()};
    return j;
  }
  j["notes"] = nlohmann::json::array();
  for (const RankNotes& notes : result.notes) {
    nlohmann::json bits = nlohmann::json::array(), checkpoints = nlohmann::json::array();
    for (double v : notes.values) bits.push_back(std::bit_cast<std::uint64_t>(v));
    for (const Checkpoint& checkpoint : notes.checkpoints) {
      nlohmann::json fields = nlohmann::json::object();
      for (const auto& [name, bytes] : checkpoint.fields) {
        fields[name] = nlohmann::json::array();
        for (std::byte b : bytes) fields[name].push_back(static_cast<int>(b));
      }
      checkpoints.push_back(fields);
    }
    j["notes"].push_back({bits, checkpoints});
  }
  j["peaks"] = result.peaks;
  j["host_peaks"] = result.host_peaks;
  j["channels"] = result.channels;
  j["steps"] = result.steps;
  j["decisions"] = result.decisions;
  j["end"] = result.end;
  j["trace"] = result.trace;
  return j;
}

inline WorldResult from_json(const nlohmann::json& j) {
  WorldResult result;
  if (j.contains("error")) {
    Error error(static_cast<Category>(j["error"][0].get<int>()), j["error"][1].get<std::string>());
    for (const auto& entry : j["error"][2])
      error.with(entry[0].get<std::string>(), entry[1].get<std::string>());
    result.error = error;
    return result;
  }
  for (const auto& rank : j["notes"]) {
    RankNotes& notes = result.notes.emplace_back();
    for (const auto& bits : rank[0])
      notes.values.push_back(std::bit_cast<double>(bits.get<std::uint64_t>()));
    for (const auto& fields : rank[1]) {
      Checkpoint& checkpoint = notes.checkpoints.emplace_back();
      for (const auto& [name, bytes] : fields.items())
        for (const auto& b : bytes)
          checkpoint.fields[name].push_back(static_cast<std::byte>(b.get<int>()));
      for (const auto& [name, bytes] : fields.items()) checkpoint.fields[name];
    }
  }
  j["peaks"].get_to(result.peaks);
  j["host_peaks"].get_to(result.host_peaks);
  j["channels"].get_to(result.channels);
  j["steps"].get_to(result.steps);
  j["decisions"].get_to(result.decisions);
  j["end"].get_to(result.end);
  j["trace"].get_to(result.trace);
  return result;
}

}  // namespace detail

// On this machine's CPU, in this process.
inline WorldResult run_in_cpu(const WorldSetup& setup, const SharedProgram& program,
                              CpuOptions cpu = {}) {
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
    const auto world = make_sim_world(setup.options, sim);
    WorldResult result = detail::run_world(*world, setup, program);
    result.trace = trace.text();
    return detail::to_json(result).dump();
  });
  return detail::from_json(nlohmann::json::parse(text));
}

// Kernels with values for toy programs; their bodies hold nothing of the program.
namespace toy {

inline float* floats(const View& view) { return static_cast<float*>(view.data); }

inline Tensor vector(Rank& rank, Stream& home, std::int64_t elements, std::string_view name,
                     Label label = Label::parameters) {
  TensorOptions options;
  options.name = name;
  return rank.allocate(home, label, elements, Dtype::fp32, options);
}

// A kernel with a body that takes `duration` in sim.
inline Prepared kernel(Rank& rank, const char* label, Seconds duration,
                       std::initializer_list<Role> roles, KernelBody body) {
  return rank.prepare(Kernel::custom(label, roles, std::move(body), Flops(0), Bytes(0), duration));
}

inline void fill(Rank& rank, Stream& stream, const Tensor& tensor, double value,
                 Site site = Site::here()) {
  stream.launch(rank.prepare(Kernel::fill(tensor.elements(), value, Dtype::fp32)), {tensor}, site);
}

}  // namespace toy

}  // namespace orrery
