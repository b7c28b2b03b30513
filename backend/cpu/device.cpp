#include "backend/cpu/device.hpp"

#include <algorithm>

#include "backend/rank.hpp"

namespace orrery::cpu {

namespace {

View view_of(const Operand& operand) {
  if (!operand) return {};
  View view{nullptr, operand.elements(), operand.storage->dtype};
  if (operand.storage->data != nullptr)
    view.data = static_cast<std::byte*>(operand.storage->data) +
                bytes_of(operand.begin, operand.storage->dtype).value;
  return view;
}

}  // namespace

CpuDevice::CpuDevice(Shared& shared, int rank)
    : shared_(shared),
      rank_(rank),
      arena_([this](Event event) { return streams_[event.stream]->passed() >= event.ordinal; }) {
  host_.passed.resize(max_streams);  // others look at it while streams are opened
}

CpuDevice::~CpuDevice() { stop(); }

void CpuDevice::open_stream(std::uint32_t stream, const std::string& name, Place) {
  streams_[stream] = std::make_unique<StreamWorker>(*this, stream, name);
  stream_count_.store(stream + 1);
  if (name == "compute") compute_.store(stream);
}

void* CpuDevice::map(const Storage& storage) {
  if (!shared_.state.options.real_values && storage.values != Values::always) return nullptr;
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

void CpuDevice::note_step(std::int64_t step, Time at) {
  if (step < 0) return;
  const Lock lock(monitor().mutex());
  const auto place = static_cast<std::size_t>(step);
  if (steps_.size() <= place) steps_.resize(place + 1);
  steps_[place] = {at, stream(static_cast<std::uint32_t>(compute_.load())).parts()};
}

// ---- Times

PartTimes CpuDevice::host_waited(Instant now) const {
  PartTimes times = host_waited_;
  if (holder_ == nobody && now > host_waits_since_)
    times[static_cast<std::size_t>(part_of_host())] +=
        monitor().at(now) - monitor().at(host_waits_since_);
  return times;
}

// What the program waits for while no flow can run: the main flow's wait decides.
Part CpuDevice::part_of_host() const {
  const Wait* wait = flows_.empty() ? nullptr : flows_[0]->wait;
  if (wait == nullptr || wait->kind != Wait::Kind::events || wait->events.empty())
    return Part::idle;
  return waiting_for(stream(wait->events[0].stream).traffic());
}

void CpuDevice::compute_waits(std::uint32_t waiting, std::int64_t other) {
  if (waiting != compute_.load()) return;
  compute_waits_since_.store(std::chrono::steady_clock::now().time_since_epoch() /
                             std::chrono::nanoseconds(1));
  compute_waits_for_.store(other);
}

Time CpuDevice::exposed(std::uint32_t index, Instant from, Instant to) const {
  const auto ps = [](std::chrono::nanoseconds ns) {
    return Time(ns.count() > 0 ? static_cast<std::uint64_t>(ns.count()) * 1000 : 0);
  };
  if (index == compute_.load()) return ps(to - from);
  if (index != compute_waits_for_.load()) return Time{};
  const Instant since{std::chrono::nanoseconds(compute_waits_since_.load())};
  return ps(to - std::max(from, since));
}

// ---- The program's life

void CpuDevice::stop() {
  for (auto& flow : flows_)
    if (flow->thread.joinable()) flow->thread.join();
  for (std::uint32_t i = 0; i < stream_count_.load(); ++i) streams_[i]->stop();
}

void CpuDevice::drain(Rank& rank) {
  for (const auto& flow : flows_)
    if (flow->id != 0 && !flow->ended)
      throw Error(Category::invalid_program, "the program ended before its flow '" + flow->name +
                                                 "': join flows that were forked")
          .with("rank", std::to_string(rank.id()));
  for (std::uint32_t i = 0; i < stream_count_.load(); ++i) {
    const Event last[1] = {{i, streams_[i]->issued()}};
    Wait wait;
    wait.kind = Wait::Kind::events;
    wait.events = last;
    wait.site = {"the end of the program", 0};
    block(wait);
  }
  for (std::uint32_t i = 0; i < stream_count_.load(); ++i)
    if (const std::exception_ptr failed = failure({i, streams_[i]->issued()}))
      std::rethrow_exception(failed);
}

void CpuDevice::report(Rank& rank, RankReport& report) const {
  report.steps = steps_;
  report.peak = rank.ledger(Place::device).peak();
  report.host_peak = rank.ledger(Place::host).peak();
  report.peak_by_label = rank.ledger(Place::device).peak_by_label();
  report.matrix_flops = rank.matrix_flops();
  report.losses = rank.losses();
  report.operations = rank.operations();
  for (const auto& channel : rank.channels())
    for (ChannelUse use : channel->uses()) {
      for (std::uint32_t i = 0; i < stream_count_.load(); ++i)
        for (const auto& [used, measured] : streams_[i]->uses())
          if (used == channel.get() && measured.kind == use.kind) {
            use.busy += measured.busy;
            use.exposed += measured.exposed;
          }
      const Communicator& communicator = channel->outgoing();
      report.channels.push_back({communicator.group(), communicator.lane(), channel->edge(), use});
    }
}

std::uint64_t CpuDevice::activities() const {
  std::uint64_t count = 0;
  for (std::uint32_t i = 0; i < stream_count_.load(); ++i) count += streams_[i]->passed();
  return count;
}

Time CpuDevice::last_end() const {
  Time end;
  for (std::uint32_t i = 0; i < stream_count_.load(); ++i)
    end = std::max(end, streams_[i]->last_end());
  return end;
}

}  // namespace orrery::cpu
