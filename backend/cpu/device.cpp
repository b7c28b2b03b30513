#include "backend/cpu/device.hpp"

#include <algorithm>

#include "backend/host/operands.hpp"
#include "backend/rank.hpp"

namespace orrery::cpu {

using host::view_of;

CpuDevice::CpuDevice(host::Shared& shared, CpuParts& parts, int rank)
    : HostDevice(shared, rank),
      parts_(parts),
      arena_([this](Event event) { return passed(event.stream) >= event.ordinal; }) {}

CpuDevice::~CpuDevice() { stop(); }

void CpuDevice::open_stream(std::uint32_t stream, const std::string& name, Place) {
  streams_[stream] = std::make_unique<StreamWorker>(*this, stream, name);
  count_stream(name);
}

void* CpuDevice::map(const Storage& storage) {
  if (!state().options.real_values && storage.values != Values::always) return nullptr;
  return arena_.take(storage.bytes(), storage.home, storage.place);
}

void CpuDevice::unmap(void* data, const Storage& storage, Event after) {
  arena_.give_back(data, storage.bytes(), storage.home, storage.place, after);
}

void CpuDevice::set_operands(Operation& operation, std::span<const Operand> operands) const {
  operation.operands = static_cast<std::uint8_t>(operands.size());
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const View view = view_of(operands[i]);
    operation.views[i] = view;
    if (operands[i].racy) operation.racy = static_cast<std::uint16_t>(operation.racy | (1U << i));
  }
}

void CpuDevice::launch(std::uint32_t stream, const PreparedKernel& kernel,
                       std::span<const Operand> operands, std::uint32_t roles) {
  monitor().throw_if_failed();
  Operation& operation = streams_[stream]->next(Operation::Kind::kernel);
  operation.kernel = &kernel;
  operation.roles = roles;
  set_operands(operation, operands);
  streams_[stream]->submit();
}

void CpuDevice::launch(std::uint32_t stream, const Sequence& sequence,
                       std::span<const Operand> operands) {
  monitor().throw_if_failed();
  Operation& operation = streams_[stream]->next(Operation::Kind::sequence);
  operation.sequence = &sequence;
  operation.roles = sequence.roles();
  set_operands(operation, operands);
  streams_[stream]->submit();
}

void CpuDevice::copy(std::uint32_t stream, const Operand& from, const Operand& to) {
  monitor().throw_if_failed();
  Operation& operation = streams_[stream]->next(Operation::Kind::copy);
  operation.roles = pack_roles({Role::read, Role::write});
  const Operand both[2] = {from, to};
  set_operands(operation, both);
  streams_[stream]->submit();
}

void CpuDevice::upload(std::uint32_t stream, const Operand& to, std::span<const double> values) {
  monitor().throw_if_failed();
  auto captured = std::make_unique<std::vector<double>>(values.begin(), values.end());
  Operation& operation = streams_[stream]->next(Operation::Kind::upload);
  operation.values = captured.release();
  operation.roles = pack_roles({Role::write});
  set_operands(operation, {&to, 1});
  streams_[stream]->submit();
}

void CpuDevice::fence(std::uint32_t stream, Event event) {
  monitor().throw_if_failed();
  streams_[stream]->next(Operation::Kind::fence).event = event;
  streams_[stream]->submit();
}

void CpuDevice::communicate(
    std::uint32_t stream, Channel& channel, const Communication& communication,
    const std::vector<std::pair<const Communicator*, std::uint64_t>>& others) {
  monitor().throw_if_failed();
  std::uint32_t part = 0;
  Meeting* meeting = nullptr;
  {
    const Lock lock(monitor().mutex());
    meeting = &meetings().issue(communication, others, view_of(communication.in),
                                view_of(communication.out),
                                communication.in.racy ? &racy_mutex_ : nullptr, part);
  }
  streams_[stream]->set_traffic(channel.edge() ? Traffic::edge : Traffic::group);
  Operation& operation = streams_[stream]->next(Operation::Kind::communicate);
  operation.meeting = meeting;
  operation.part = part;
  operation.channel = &channel;
  operation.collective = communication.kind;
  if (communication.out.racy) operation.racy = 2;
  streams_[stream]->submit();
}

void CpuDevice::mark_step(std::uint32_t stream, std::int64_t step) {
  streams_[stream]->next(Operation::Kind::mark).step = step;
  streams_[stream]->submit();
}

void CpuDevice::step_ended(std::int64_t step, Time at) {
  StreamWorker& compute = stream(compute_stream());
  note_step(step, {at, compute.parts()});
  compute.note_step();
}

std::vector<WorkRow> CpuDevice::work() const {
  if (stream_count() == 0) return {};
  return stream(compute_stream()).work();
}

void CpuDevice::stream_moved(std::uint32_t) {
  for (std::uint32_t i = 0; i < stream_count(); ++i) streams_[i]->review_fence();
  advance();
}

// ---- Times

void CpuDevice::compute_waits(std::uint32_t waiting, std::int64_t other) {
  if (waiting != compute_stream()) return;
  compute_waits_since_.store(std::chrono::steady_clock::now().time_since_epoch() /
                             std::chrono::nanoseconds(1));
  compute_waits_for_.store(other);
}

Time CpuDevice::exposed(std::uint32_t index, Instant from, Instant to) const {
  const auto ps = [](std::chrono::nanoseconds ns) {
    return Time(ns.count() > 0 ? static_cast<std::uint64_t>(ns.count()) * 1000 : 0);
  };
  if (index == compute_stream()) return ps(to - from);
  if (index != compute_waits_for_.load()) return Time{};
  const Instant since{std::chrono::nanoseconds(compute_waits_since_.load())};
  return ps(to - std::max(from, since));
}

// ---- The program's life

void CpuDevice::stop() {
  HostDevice::stop();
  for (std::uint32_t i = 0; i < stream_count(); ++i) streams_[i]->stop();
}

void CpuDevice::note_loss(Loss loss) {
  const std::lock_guard lock(losses_mutex_);
  losses_.push_back(std::move(loss));
  has_losses_.store(true);
}

std::optional<Loss> CpuDevice::take_loss(Event event) {
  if (!has_losses_.load()) return {};
  const std::lock_guard lock(losses_mutex_);
  return take_loss_from(losses_, event);
}

}  // namespace orrery::cpu
