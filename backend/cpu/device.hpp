// One rank of the CPU world: its streams, its memory.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backend/cpu/rendezvous.hpp"
#include "backend/cpu/stream_worker.hpp"
#include "backend/host/arena.hpp"
#include "backend/host/device.hpp"

namespace orrery::cpu {

// What devices share.
struct CpuParts {
  Meetings& meetings;
  const KernelBodies& bodies;
};

class CpuDevice final : public host::HostDevice {
 public:
  CpuDevice(host::Shared& shared, CpuParts& parts, int rank);
  ~CpuDevice() override;

  void stop() override;

  void open_stream(std::uint32_t stream, const std::string& name, Place place) override;
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
  void mark_step(std::uint32_t stream, std::int64_t step) override;
  const std::string& stream_name(std::uint32_t index) const override {
    return stream(index).name();
  }
  std::uint64_t passed(std::uint32_t index) const override { return stream(index).passed(); }
  std::uint64_t issued(std::uint32_t index) const override { return stream(index).issued(); }
  Traffic traffic(std::uint32_t index) const override { return stream(index).traffic(); }
  const ChannelUses& uses(std::uint32_t index) const override { return stream(index).uses(); }
  Time stream_end(std::uint32_t index) const override { return stream(index).last_end(); }
  std::vector<WorkRow> work() const override;
  void watch(Event event) override { stream(event.stream).watch(event.ordinal); }
  std::exception_ptr failure_by(Event event) const override {
    return stream(event.stream).failure_by(event.ordinal);
  }

  void may_change(const Channel&) override {}
  std::optional<Loss> take_loss(Event event) override;

  // For streams.
  void note_loss(Loss loss);
  Meetings& meetings() const { return parts_.meetings; }
  const KernelBodies& bodies() const { return parts_.bodies; }
  StreamWorker& stream(std::uint32_t index) const { return *streams_[index]; }
  std::mutex& racy_mutex() { return racy_mutex_; }
  bool is_compute(std::uint32_t index) const { return index == compute_stream(); }
  bool is_observed() const { return state().options.observer != nullptr; }
  using HostDevice::observe;
  void step_ended(std::int64_t step, Time at);
  // What of [from, to], in which stream `index` communicated, the compute stream waited for it.
  Time exposed(std::uint32_t index, Instant from, Instant to) const;

  // With the world's lock.
  void stream_moved(std::uint32_t index);
  // Stream `waiting` waits for stream `other`; -1 when it no longer does.
  void compute_waits(std::uint32_t waiting, std::int64_t other);

  Bytes arena_high_water() const override { return arena_.high_water(Place::device); }

 private:
  void set_operands(Operation& operation, std::span<const Operand> operands) const;

  CpuParts& parts_;
  std::array<std::unique_ptr<StreamWorker>, max_streams> streams_;
  std::atomic<std::int64_t> compute_waits_for_{-1};  // the stream whose operation it waits for
  std::atomic<std::int64_t> compute_waits_since_{0};
  std::mutex racy_mutex_;
  std::mutex losses_mutex_;
  std::vector<Loss> losses_;  // that the program has not been told
  std::atomic<bool> has_losses_{false};
  host::Arena arena_;
};

}  // namespace orrery::cpu
