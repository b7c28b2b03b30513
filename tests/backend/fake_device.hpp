// A world in memory for tests of the interface alone: no threads, no clock of its own.
//
// Each stream is a queue. Operations run as soon as they can, in (rank, stream) order, or stay
// queued while `hold` is set until `settle` is called. A wait that nothing satisfies runs what is
// held; then its deadline passes, or it is a deadlock. Values exist as in a real run: bodies of
// custom kernels, copies, uploads and collectives are carried out.
#pragma once

#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/device.hpp"
#include "backend/rank.hpp"
#include "backend/reference_collectives.hpp"
#include "backend/world.hpp"

namespace orrery {

class FakeWorld;

class FakeDevice final : public Device {
 public:
  FakeDevice(FakeWorld& world, int id) : world_(world), id_(id) {}

  void open_stream(std::uint32_t, const std::string& name, Place) override {
    host_.passed.push_back(0);
    opened.push_back(name);
    queues_.emplace_back();
  }
  void* map(const Storage& storage) override;
  void unmap(void* data, const Storage& storage, Event after) override;
  void launch(std::uint32_t stream, const PreparedKernel& kernel, std::span<const Operand> operands,
              std::uint32_t roles) override;
  void launch(std::uint32_t stream, const Sequence& sequence,
              std::span<const Operand> operands) override;
  void copy(std::uint32_t stream, const Operand& from, const Operand& to) override;
  void upload(std::uint32_t stream, const Operand& to, std::span<const double> values) override;
  void fence(std::uint32_t stream, Event event) override;
  void communicate(
      std::uint32_t stream, Channel& channel, const Communication& communication,
      const std::vector<std::pair<const Communicator*, std::uint64_t>>& others) override;
  void mark_step(std::uint32_t, std::int64_t step) override { steps.push_back(step); }

  HostState& host() override { return host_; }
  std::uint32_t current_flow() override { return flow_; }
  bool block(const Wait& wait) override;
  bool done(Event event) override { return host_.done(event); }
  std::exception_ptr failure(Event event) override;
  Time now() override { return clock; }
  void fork(std::uint32_t flow, const std::string& name, std::function<void()> body) override;
  void raise(Signal& signal) override { signal.add(); }
  void take(Signal& signal) override { signal.take(); }
  void send(int to, ControlMessage message) override;
  ControlMessage take_message(Tag tag, int from) override;

  // Operation `ordinal` of `stream` fails, and with it all that follow on the stream.
  void fail(std::uint32_t stream, std::uint64_t ordinal, std::exception_ptr why) {
    failures_[stream] = {ordinal, std::move(why)};
  }
  // Runs operations at the heads of the queues while any can; whether one ran.
  bool advance();

  Time clock;
  std::vector<std::string> opened;
  std::vector<Event> fences;                // in issue order
  std::vector<Event> unmapped;              // the `after` of each unmap, in issue order
  std::vector<std::int64_t> steps;          // as marked
  std::vector<std::string> waits;           // descriptions of waits that were not satisfied at once
  std::function<void(const Wait&)> waited;  // called for those, if set; may settle the world

 private:
  using Operation = std::function<bool()>;  // runs if it can; whether it did
  void push(std::uint32_t stream, Operation operation);
  static View view(const Operand& operand);

  FakeWorld& world_;
  int id_;
  std::uint32_t flow_ = 0;
  HostState host_;
  std::vector<std::deque<Operation>> queues_;
  std::map<std::uint32_t, std::pair<std::uint64_t, std::exception_ptr>> failures_;
};

class FakeWorld {
 public:
  explicit FakeWorld(WorldOptions options = {}, std::vector<std::string> services = {})
      : state(std::move(options)), catalogue_([this](PreparedKernel& k) { price(k); }) {
    state.catalogue = [this](int) -> Catalogue& { return catalogue_; };
    state.services = std::move(services);
    for (int id = 0; id < state.options.grid.size(); ++id) {
      devices_.push_back(std::make_unique<FakeDevice>(*this, id));
      devices_.back()->host().flow_ended.push_back(false);
      ranks_.push_back(std::make_unique<Rank>(state, *devices_.back(), id));
    }
  }
  ~FakeWorld() { ranks_.clear(); }
  FakeWorld(const FakeWorld&) = delete;
  FakeWorld& operator=(const FakeWorld&) = delete;

  Rank& rank(int id = 0) { return *ranks_.at(static_cast<std::size_t>(id)); }
  FakeDevice& device(int id = 0) { return *devices_.at(static_cast<std::size_t>(id)); }
  int size() const { return static_cast<int>(ranks_.size()); }
  // Runs everything that can run, whatever `hold` says.
  void settle() {
    for (bool ran = true; ran;) {
      ran = false;
      for (auto& device : devices_) ran = device->advance() || ran;
    }
  }

  bool hold = false;
  std::function<void(PreparedKernel&)> price = [](PreparedKernel&) {};
  WorldState state;
  // Results of operations that all members have come to, until the last has taken its own.
  std::map<const Rendezvous*, std::vector<std::vector<std::byte>>> results;

 private:
  Catalogue catalogue_;
  std::vector<std::unique_ptr<FakeDevice>> devices_;
  std::vector<std::unique_ptr<Rank>> ranks_;
};

// `ranks` along the replicate axis.
inline WorldOptions replicas(int ranks, bool real_values = false) {
  WorldOptions options;
  options.grid.set(Axis::replicate, ranks);
  options.real_values = real_values;
  return options;
}

inline Tensor tensor(Rank& rank, Stream& home, std::int64_t elements, std::string_view name = "t",
                     Label label = Label::activations, Dtype dtype = Dtype::fp32) {
  TensorOptions options;
  options.name = name;
  return rank.allocate(home, label, elements, dtype, options);
}

// Kernels without work that only use their operands.
inline Prepared reader(Rank& rank) {
  return rank.prepare(Kernel::timed("reader", Seconds(0), {Role::read}));
}
inline Prepared writer(Rank& rank) {
  return rank.prepare(Kernel::timed("writer", Seconds(0), {Role::write}));
}

}  // namespace orrery
