#include "backend/host/device.hpp"

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
}

void HostDevice::note_step(std::int64_t step, const StepMark& mark) {
  if (step < 0) return;
  const Lock lock(monitor().mutex());
  const auto place = static_cast<std::size_t>(step);
  if (steps_.size() <= place) steps_.resize(place + 1);
  steps_[place] = mark;
}

PartTimes HostDevice::host_waited(Instant now) const {
  PartTimes times = host_waited_;
  if (holder_ == nobody && now > host_waits_since_)
    times[static_cast<std::size_t>(part_of_host())] +=
        monitor().at(now) - monitor().at(host_waits_since_);
  return times;
}

// What the program waits for while no flow can run: the main flow's wait decides.
Part HostDevice::part_of_host() const {
  const Wait* wait = flows_.empty() ? nullptr : flows_[0]->wait;
  if (wait == nullptr || wait->kind != Wait::Kind::events || wait->events.empty())
    return Part::idle;
  return waiting_for(traffic(wait->events[0].stream));
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
}

void HostDevice::report(Rank& rank, RankReport& report) const {
  report.steps = steps_;
  report.peak = rank.ledger(Place::device).peak();
  report.host_peak = rank.ledger(Place::host).peak();
  report.peak_by_label = rank.ledger(Place::device).peak_by_label();
  report.matrix_flops = rank.matrix_flops();
  report.losses = rank.losses();
  report.operations = rank.operations();
}

}  // namespace orrery::host
