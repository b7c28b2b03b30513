#include "backend/host/device.hpp"

#include <algorithm>

#include "backend/rank.hpp"

namespace orrery::host {

Part waiting_for(Traffic traffic) {
  switch (traffic) {
    case Traffic::group:
      return Part::exposed_communication;
    case Traffic::edge:
      return Part::bubble;
    case Traffic::none:
      break;
  }
  return Part::idle;
}

HostDevice::HostDevice(Shared& shared, int rank) : shared_(shared), rank_(rank) {
  host_.passed.resize(max_streams);  // others look at it while streams are opened
}

void HostDevice::count_stream(const std::string& name) {
  const std::uint32_t index = stream_count_.fetch_add(1);
  if (name == "compute") compute_.store(index);
  if (StreamObserver* const observer = state().options.observer)
    observer->opened(rank_, index, name);
}

void HostDevice::note_step(std::int64_t step, const StepMark& mark) {
  if (step < 0) return;
  const Lock lock(monitor().mutex());
  steps_.set(static_cast<std::size_t>(step), mark);
}

PartTimes HostDevice::host_waited(Instant now) const {
  PartTimes times = host_waited_;
  if (holder_ == nobody && now > host_waits_since_)
    times[static_cast<std::size_t>(part_of_host())] +=
        monitor().at(now) - monitor().at(host_waits_since_);
  return times;
}

const Wait* HostDevice::main_wait() const {
  const Wait* wait = flows_.empty() ? nullptr : flows_[0]->wait;
  const bool events = wait != nullptr && wait->kind == Wait::Kind::events && !wait->events.empty();
  return events ? wait : nullptr;
}

// What the program waits for while no flow can run: the main flow's wait decides.
Part HostDevice::part_of_host() const {
  const Wait* wait = main_wait();
  return wait == nullptr ? Part::idle : waiting_for(traffic(wait->events[0].stream));
}

void HostDevice::stop() {
  for (auto& flow : flows_)
    if (flow->thread.joinable()) flow->thread.join();
}

void HostDevice::drain(Rank& rank) {
  for (const auto& flow : flows_)
    if (flow->id != 0 && !flow->ended)
      throw Error(Category::invalid_program, "the program ended before its flow '" + flow->name +
                                                 "': join flows that were forked")
          .with("rank", std::to_string(rank.id()));
  for (std::uint32_t i = 0; i < stream_count(); ++i) {
    const Event last[1] = {{i, issued(i)}};
    Wait wait;
    wait.kind = Wait::Kind::events;
    wait.events = last;
    wait.site = {"the end of the program", 0};
    block(wait);
  }
  for (std::uint32_t i = 0; i < stream_count(); ++i)
    if (const std::exception_ptr failed = failure({i, issued(i)})) std::rethrow_exception(failed);
  for (std::uint32_t i = 0; i < stream_count(); ++i) rank.throw_if_lost({i, issued(i)});
}

void HostDevice::report(Rank& rank, RankReport& report) const {
  report.steps = steps_;
  report.peak = rank.ledger(Place::device).peak();
  report.host_peak = rank.ledger(Place::host).peak();
  report.peak_by_label = rank.ledger(Place::device).peak_by_label();
  report.matrix_flops = rank.matrix_flops();
  report.losses = rank.losses();
  report.operations = rank.operations();
  report.work = work();
  for (const auto& channel : rank.channels())
    for (ChannelUse use : channel->uses()) {
      for (std::uint32_t i = 0; i < stream_count(); ++i)
        for (const auto& [used, measured] : uses(i))
          if (used == channel.get() && measured.kind == use.kind) {
            use.busy += measured.busy;
            use.exposed += measured.exposed;
          }
      const Communicator& communicator = channel->outgoing();
      report.channels.push_back({communicator.group(), communicator.lane(), channel->edge(), use});
    }
}

std::uint64_t HostDevice::activities() const {
  std::uint64_t count = 0;
  for (std::uint32_t i = 0; i < stream_count(); ++i) count += passed(i);
  return count;
}

Time HostDevice::last_end() const {
  Time end;
  for (std::uint32_t i = 0; i < stream_count(); ++i) end = std::max(end, stream_end(i));
  return end;
}

}  // namespace orrery::host
