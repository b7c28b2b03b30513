// What the simulated world asks of a cluster: how long kernels and transfers take, and which links
// they use.
//
// Ranks are placed on GPUs one to one: rank r runs on GPU r of the machine. `Cluster` (cluster.hpp)
// answers from platform files; `UniformMachine` from a handful of numbers, for tests and for
// what-if questions without a platform.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "backend/channel.hpp"
#include "backend/core/units.hpp"
#include "backend/kernel.hpp"

namespace orrery {

// What a link belongs to, from the inside of a node to the outside of a site; of a network that a
// SimGrid file describes, all are of one tier.
enum class LinkTier : std::uint8_t { scale_up, numa, nic, leaf, pod, global, torus, wan, simgrid };
inline constexpr int link_tier_count = 9;
const char* name(LinkTier);

// A network resource: one direction of a NVLink port or of a NIC, or many parallel links that are
// always loaded alike. Links have no latency; alpha is paid before a flow starts.
struct LinkSpec {
  std::string name;
  BytesPerSecond bandwidth;
  LinkTier tier = LinkTier::scale_up;
};

// The number of the link that is added next.
inline std::uint32_t next_link(const std::vector<LinkSpec>& links) {
  return static_cast<std::uint32_t>(links.size());
}

// Bytes that one GPU sends another in the course of a collective.
struct Flow {
  int from = 0, to = 0;
  Bytes size;
  bool operator==(const Flow&) const = default;
};

// How a collective is carried out when nothing else uses its links.
struct CollectivePlan {
  const char* algorithm = "ring";
  int steps = 0;  // rounds in which every member sends once
  Bytes volume;   // that each member sends, over all steps
  Time total;     // alpha terms and transfer
};

// How a simulation times communication:
//   analytic   the machine's plan, as if nothing else used the links
//   flow       each member's bytes as one flow over the links: contention, in aggregate
//   messages   every step of a ring and every message as a flow of its own: for validation, and for
//   small groups (steps x
//              members flows). Collectives take the ring whatever algorithm the machine's plan
//              names
//   automatic  analytic, for now
// Without contention the three agree to the picosecond wherever a chunk takes whole picoseconds.
enum class Fidelity : std::uint8_t { automatic, analytic, flow, messages };

// What the host pays, on its own clock, for talking to a device.
struct HostCosts {
  Time launch, communicate,
      wait;              // per launch or fence; per communication; per return from a blocking wait
  Time control_latency;  // of a control message
};

// What communications keep of a GPU from its kernels, and other threads of a core.
struct Taken {
  std::int32_t multiprocessors = 0;
  std::int32_t transfers = 0;  // that move what `memory` counts
  std::int64_t memory = 0;     // bytes per second
  std::int32_t threads = 0;    // without a core of their own, beyond those when it was measured
  // `sign` times the other.
  void add(const Taken& other, int sign) {
    multiprocessors += sign * other.multiprocessors;
    threads += sign * other.threads;
    transfers += sign * other.transfers;
    memory += sign * other.memory;
  }
  bool operator==(const Taken&) const = default;
};

// A processor whose cores several devices share, each of them a thread of its own or, where more of
// its streams work at once, several.
struct SharedProcessor {
  int number = 0;
  int cores = 1;
  int busy = 1;  // threads that worked while kernels were measured
};

class Machine {
 public:
  virtual ~Machine() = default;
  virtual int gpus() const = 0;
  virtual Bytes device_memory(int gpu) const = 0;
  virtual int kind(int gpu) const = 0;  // GPUs of one kind share prices
  virtual Time kernel_time(const Kernel& kernel, const Cost& cost, int kind) const = 0;
  virtual HostCosts host(int gpu) const = 0;

  // Whether kernels beside communications take longer at all. What a communication takes of each
  // member's GPU: all along, be it that it waits for other members, and besides while `volume`
  // leaves a member in `total`.
  virtual bool interferes() const { return false; }
  virtual Taken waiting(Collective /*kind*/, const std::vector<int>& /*members*/) const {
    return {};
  }
  virtual Taken transferring(Collective /*kind*/, Bytes /*volume*/, Time /*total*/) const {
    return {};
  }
  // kernel_time on a GPU of which that is taken.
  virtual Time kernel_time_beside(const Kernel& kernel, const Cost& cost, int kind,
                                  const Taken& /*taken*/) const {
    return kernel_time(kernel, cost, kind);
  }

  // Of a device that is not its own: the scheduler gives each thread that works as much of the
  // cores, so kernels take longer the more of them there are than cores.
  virtual std::optional<SharedProcessor> processor(int /*gpu*/) const { return std::nullopt; }

  virtual Time latency(int from, int to) const = 0;              // alpha of one message
  virtual BytesPerSecond bandwidth(int from, int to) const = 0;  // of one transfer alone
  // Of one message alone, latency included.
  virtual Time message_time(int from, int to, Bytes size) const {
    return latency(from, to) + to_time(size / bandwidth(from, to));
  }
  virtual CollectivePlan plan(Collective kind, Bytes size,
                              const std::vector<int>& members) const = 0;
  // The rings that a collective runs along, each through all members, with an equal part of the
  // data. One in the order of the members, unless a machine knows better.
  virtual std::vector<std::vector<int>> rings(const std::vector<int>& members) const {
    return {members};
  }
  // What a collective moves, in aggregate, when it takes its plan's time alone: along the rings, or
  // directly between all pairs in an all_to_all.
  virtual std::vector<Flow> flows(Collective kind, Bytes size,
                                  const std::vector<int>& members) const;
  // Links by index, and the path of a transfer over them. Paths are never empty for from != to.
  virtual const std::vector<LinkSpec>& links() const = 0;
  virtual void route(int from, int to, std::vector<std::uint32_t>& path) const = 0;
};

// Seconds that a machine's links need at least for these flows: the largest sum of bytes over a
// link's bandwidth. What they take alone, where each is held up by the busiest link on its path.
Seconds transfer_time(const Machine& machine, const std::vector<Flow>& flows);

// The bytes of `volume` that each of the members sends to its neighbours, along rings.
std::vector<Flow> ring_flows(const std::vector<std::vector<int>>& rings, Bytes volume);

// Equal GPUs, each with one link out and one link in of the same bandwidth; ring collectives with
// the same alpha per step.
struct UniformSpec {
  int gpus = 1;
  Bytes memory{0};
  Time alpha;
  BytesPerSecond bandwidth{1e9};
  HostCosts host;
  std::function<Time(const Kernel&, const Cost&)>
      kernel_time;  // timed kernels take their own duration; others 0 if unset
  // Of any communication; set: kernels beside communications take this long.
  Taken waiting{}, transferring{};
  std::function<Time(const Kernel&, const Cost&, const Taken&)> kernel_time_beside{};
  std::optional<SharedProcessor> processor{};  // of all devices
};

class UniformMachine : public Machine {
 public:
  explicit UniformMachine(UniformSpec spec);
  int gpus() const override { return spec_.gpus; }
  Bytes device_memory(int) const override { return spec_.memory; }
  int kind(int) const override { return 0; }
  Time kernel_time(const Kernel& kernel, const Cost& cost, int kind) const override;
  HostCosts host(int) const override { return spec_.host; }
  bool interferes() const override { return spec_.kernel_time_beside != nullptr; }
  std::optional<SharedProcessor> processor(int) const override { return spec_.processor; }
  Taken waiting(Collective, const std::vector<int>&) const override { return spec_.waiting; }
  Taken transferring(Collective, Bytes, Time) const override { return spec_.transferring; }
  Time kernel_time_beside(const Kernel& kernel, const Cost& cost, int,
                          const Taken& taken) const override {
    return spec_.kernel_time_beside(kernel, cost, taken);
  }
  Time latency(int, int) const override { return spec_.alpha; }
  BytesPerSecond bandwidth(int, int) const override { return spec_.bandwidth; }
  CollectivePlan plan(Collective kind, Bytes size, const std::vector<int>& members) const override;
  const std::vector<LinkSpec>& links() const override { return links_; }
  void route(int from, int to, std::vector<std::uint32_t>& path) const override;

 private:
  UniformSpec spec_;
  std::vector<LinkSpec> links_;
};

// steps rounds of (alpha + volume / steps / bandwidth), the volume rounded up to whole bytes per
// step; the ring algorithm.
CollectivePlan ring_plan(Collective kind, Bytes size, int members, Time alpha,
                         BytesPerSecond bandwidth);

}  // namespace orrery
