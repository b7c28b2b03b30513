// The simulated world: rank programs on a machine that need not exist.
//
// Each rank program is an actor that issues ahead of its streams; streams, collectives and host
// clocks are state machines over the engine of sim/simgrid. Equal programs, options and machines
// give equal reports and traces, byte for byte.
//
// One simulation per process (SimGrid's rule): fork for more.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/throttle.hpp"
#include "backend/world.hpp"
#include "platforms/machine.hpp"
#include "sim/trace.hpp"
#include "sim/variability.hpp"

namespace orrery {

struct GroupFidelity {
  std::string group;  // as Communicator::group says: "shard+replicate", "pipeline+1"
  Fidelity fidelity = Fidelity::automatic;
};

// Who issues for the ranks. All give the same times and counters, to the picosecond.
enum class Execution : std::uint8_t {
  actors,     // each rank's program runs, on a stack of its own
  shared,     // a program is recorded once for all ranks that issue the same, and each replays it
  folded,     // and one rank is simulated for all that do the same at the same times
  unfolded,   // shared where the program allows it and ranks have it in common, else actors
  automatic,  // folded where program and platform allow it, else unfolded
};

struct SimOptions {
  const Machine* machine = nullptr;  // must outlive the world; rank r runs on its GPU r
  Fidelity fidelity = Fidelity::automatic;
  std::vector<GroupFidelity> groups;  // override `fidelity`
  // Communications take at least this long, as in the CPU world. With analytic fidelity only.
  std::optional<Throttle> throttle;
  sim::Variability variability;  // of the devices; by default they are equal and steady
  // `shared` and `folded` refuse by Error{config}, with the reason and the call site, a program or
  // a platform that does not allow it.
  Execution execution = Execution::actors;
  bool host_clock = false;  // issuing costs host time, by Machine::host
  // A host that is this many operations ahead of a stream blocks until half of them have ended, as
  // with CUDA's launch queue. It keeps its rank's other flows from running meanwhile. At least 2.
  std::uint32_t launch_queue = 64;
  // Of a shared program this many ranks are simulated together, as far as they can go on alone,
  // where nothing but communications reaches from one to another (neighbourhoods.hpp): of 1 to 2
  // KiB each, they stay in a core's cache. No time changes by it. 0: all are.
  std::uint32_t neighbourhood = 128;
  // Filled with the number of each rank's, by rank, where they are and this is not null.
  std::vector<std::uint16_t>* neighbourhood_of = nullptr;
  // Filled with the bytes that communications put on each link of the machine, where not null.
  std::vector<double>* link_bytes = nullptr;
  TraceSink* trace = nullptr;  // null: no trace. Must outlive the world
  bool work_times = false;     // RankReport::work is filled, which costs a look-up per operation
};

// Whether some transfers are flows that share the machine's links.
bool simulates_flows(const SimOptions& options);

// Error{config} when the machine has fewer GPUs than the grid has ranks, or an option is invalid.
std::unique_ptr<World> make_sim_world(WorldOptions options, SimOptions sim);

}  // namespace orrery
