#include "scenarios/cli/memory_world.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <unordered_map>

#include "backend/device.hpp"
#include "backend/rank.hpp"
#include "scenarios/cli/caching_allocator.hpp"

namespace orrery::cli {

namespace {

[[noreturn]] void needs_time() {
  throw Error(Category::unavailable,
              "the memory of a program whose ranks fork flows or wait for messages is known to "
              "`orrery simulate` only");
}

// Every operation is over as soon as it is issued.
class IdleDevice final : public Device {
 public:
  explicit IdleDevice(std::function<void(const PreparedKernel&)> launched = {},
                      Segments segments = Segments::expandable)
      : allocator_(segments), launched_(std::move(launched)) {}
  void open_stream(std::uint32_t, const std::string&, Place) override { host_.passed.push_back(0); }
  void may_change(const Channel&) override {}
  // Every tensor has an address, so that `unmap` is told of it; those without values all the same.
  void* map(const Storage& storage) override {
    if (storage.place == Place::device)
      blocks_.emplace(&storage, allocator_.allocate(storage.home, storage.bytes()));
    if (storage.values != Values::always) return &no_values_;
    const auto bytes = static_cast<std::size_t>(std::max<std::int64_t>(1, storage.bytes().value));
    return std::memset(::operator new(bytes), 0, bytes);
  }
  void unmap(void* data, const Storage& storage, Event) override {
    if (const auto block = blocks_.find(&storage); block != blocks_.end()) {
      allocator_.free(block->second);
      blocks_.erase(block);
    }
    if (data != &no_values_) ::operator delete(data);
  }
  void read(const Operand& operand, void* to) override {
    if (operand.storage->data == &no_values_)
      throw Error(Category::invalid_program, "the program reads tensor '" + operand.storage->name +
                                                 "', which has no values here");
    Device::read(operand, to);
  }
  void write(const void* from, const Operand& operand) override {
    if (operand.storage->data != &no_values_) Device::write(from, operand);
  }
  Bytes cached() const { return allocator_.held(); }

  void launch(std::uint32_t stream, const PreparedKernel& kernel, std::span<const Operand>,
              std::uint32_t) override {
    if (launched_) launched_(kernel);
    pass(stream);
  }
  void launch(std::uint32_t stream, const Sequence& sequence, std::span<const Operand>) override {
    if (launched_)
      for (const Sequence::Step& step : sequence.steps()) launched_(*step.kernel.kernel);
    pass(stream);
  }
  void copy(std::uint32_t stream, const Operand&, const Operand&) override { pass(stream); }
  void upload(std::uint32_t stream, const Operand&, std::span<const double>) override {
    pass(stream);
  }
  void fence(std::uint32_t stream, Event) override { pass(stream); }
  void communicate(std::uint32_t stream, Channel&, const Communication&,
                   const std::vector<std::pair<const Communicator*, std::uint64_t>>&) override {
    pass(stream);
  }
  void mark_step(std::uint32_t, std::int64_t) override {}

  HostState& host() override { return host_; }
  std::uint32_t current_flow() override { return 0; }
  bool block(const Wait& wait) override {
    if (wait.kind == Wait::Kind::events || wait.kind == Wait::Kind::time) return true;
    needs_time();
  }
  bool done(Event) override { return true; }
  std::exception_ptr failure(Event) override { return nullptr; }
  Time now() override { return {}; }
  void fork(std::uint32_t, const std::string&, std::function<void()>) override { needs_time(); }
  void raise(Signal& signal) override { signal.add(); }
  void take(Signal& signal) override { signal.take(); }
  void send(int, ControlMessage) override {}
  ControlMessage take_message(Tag, int) override { needs_time(); }

 private:
  void pass(std::uint32_t stream) { ++host_.passed[stream]; }
  HostState host_;
  CachingAllocator allocator_;
  std::unordered_map<const Storage*, CachingAllocator::Block> blocks_;
  char no_values_ = 0;
  std::function<void(const PreparedKernel&)> launched_;
};

}  // namespace

namespace {

RankMemory issue(const WorldOptions& options, const World::Program& program, int rank,
                 IdleDevice&& device) {
  WorldOptions accounting = options;
  accounting.real_values = false;
  WorldState state(std::move(accounting));
  Catalogue catalogue([](PreparedKernel&) {});
  state.catalogue = [&catalogue](int) -> Catalogue& { return catalogue; };
  device.host().flow_ended.push_back(false);
  Rank handle(state, device, rank);
  program(handle);
  const Ledger& ledger = handle.ledger(Place::device);
  return {ledger.peak(), ledger.peak_by_label(), device.cached()};
}

}  // namespace

RankMemory memory_of_rank(const WorldOptions& options, const World::Program& program, int rank,
                          Segments segments) {
  return issue(options, program, rank, IdleDevice({}, segments));
}

void launched_by_rank(const WorldOptions& options, const World::Program& program, int rank,
                      const std::function<void(const PreparedKernel&)>& launched) {
  issue(options, program, rank, IdleDevice(launched));
}

}  // namespace orrery::cli
