#include "sim/cursor.hpp"

#include <algorithm>

namespace orrery::sim {

SimCursor::SimCursor(Core& core, std::uint32_t id, const Recording& recording,
                     const std::vector<StreamScript>& scripts)
    : SimRank(core, id), recording_(recording), scripts_(scripts) {
  // Made one after the other, what is a rank's lies on a page: with thousands of ranks each page
  // is one that the processor has to look up.
  scripted_streams_ = std::vector<StreamState>(recording.streams.size());
  streams_.reserve(recording.streams.size());
  places_.reserve(recording.places.size());
  for (const auto& [channel, kind] : recording.places)
    places_.push_back(open(recording.channels[channel], kind));
}

ChannelPlace SimCursor::open(const RecordedChannel& channel, Collective kind) const {
  Communicators& all = core_.state.communicators;
  const auto place = [this](int member, Communicator& communicator) {
    return ChannelPlace{member, &core_.collectives->meeting_of(communicator), {}, {}};
  };
  const Grid& grid = core_.state.options.grid;
  const int rank = static_cast<int>(id_);
  if (!channel.edge) {
    Communicator& group = all.group(rank, channel.axes, channel.lane);
    return place(all.index_in_group(rank, channel.axes, group), group);
  }
  const Axis axis = channel.axes.first();
  if (kind == Collective::send) return place(0, all.edge(rank, axis, channel.offset, channel.lane));
  const int size = grid.size(axis);
  const int before = (grid.coordinate(rank, axis) - channel.offset) % size;
  const int previous = grid.rank_with(rank, axis, (before + size) % size);
  return place(1, all.edge(previous, axis, channel.offset, channel.lane));
}

void SimCursor::reconsider() {
  HostFlow& flow = *main_;
  if (woken_ || flow.blocked == HostFlow::Blocked::no || !is_over(flow)) return;
  woken_ = true;
  core_.woken.push_back(this);
}

void SimCursor::go_on() {
  HostFlow& flow = *main_;
  woken_ = false;
  if (flow.blocked != HostFlow::Blocked::no) {
    if (!is_over(flow)) return;
    const bool paid_wait = flow.blocked == HostFlow::Blocked::wait;
    unblock(flow);
    flow.blocked = HostFlow::Blocked::no;
    flow.wait = nullptr;
    if (paid_wait) pay_wait(flow);
    update_thresholds();
    host_waited();
  }
  while (at_ < recording_.records.size())
    if (!issue(recording_.records[at_++])) return;
  if (leave()) flow.ended = true;
}

// The host reaches its clock, then waits for its streams: as SimDevice::drain.
bool SimCursor::leave() {
  HostFlow& flow = *main_;
  if (leaving_ == HostFlow::Blocked::no) {
    leaving_ = HostFlow::Blocked::clock;
    if (core_.engine.now() < flow.clock) {
      core_.engine.schedule(flow.clock, core_.extra_key(id_), make_payload(Due::flow_wakes, &flow));
      stop(HostFlow::Blocked::clock);
      return false;
    }
  }
  if (leaving_ == HostFlow::Blocked::clock) {
    leaving_ = HostFlow::Blocked::drain;
    flow.blocked = HostFlow::Blocked::drain;
    if (!is_over(flow)) {
      stop(HostFlow::Blocked::drain);
      return false;
    }
    flow.blocked = HostFlow::Blocked::no;
  }
  return true;
}

void SimCursor::stop(HostFlow::Blocked why) {
  main_->blocked = why;
  watch(*main_);
}

void SimCursor::pay_wait(HostFlow& flow) {
  flow.clock += costs_.wait;
  scripted_ += costs_.wait;
}

// Whether the host can go on.
bool SimCursor::wait_for(const RecordedWait& recorded) {
  HostFlow& flow = *main_;
  StreamState& stream = *streams_[recorded.event.stream];
  core_.streams->settle(stream);
  if (stream.passed >= recorded.event.ordinal) {
    pay_wait(flow);
    return true;
  }
  flow.wait = &recorded.wait;
  flow.wait_class = class_of(recorded.wait);
  flow.blocked_from = flow.clock;
  stop(HostFlow::Blocked::wait);
  return false;
}

bool SimCursor::issue(const Record& record) {
  HostFlow& flow = *main_;
  if (record.kind == RecordKind::wait) return wait_for(recording_.waits[record.number]);
  if (record.kind == RecordKind::open_stream) {
    add_stream(recording_.streams[record.stream]);
    streams_.back()->queue.follow(scripts_[record.stream]);
    return true;
  }
  StreamState& stream = *streams_[record.stream];
  stream.queue.push_next(lateness_);
  if (record.kind == RecordKind::mark) {
    mark_issued(flow, stream);
    return true;
  }
  if (record.kind == RecordKind::communication) {
    const RecordedCommunication& recorded = recording_.communications[record.number];
    note_wait_class(stream, recording_.channels[recorded.channel].edge ? WaitClass::edge
                                                                       : WaitClass::collective);
  }
  const Time cost = cost_of(record, costs_);
  scripted_ += cost;
  if (!issued(flow, stream, cost)) return true;
  wants_room(flow, stream);
  stop(HostFlow::Blocked::queue);
  return false;
}

// The host has been blocked. If it is later now than before, everything that it had issued was
// issued before this instant.
void SimCursor::host_waited() {
  const Time late = main_->clock - scripted_;
  if (late == lateness_) return;
  lateness_ = late;
  for (StreamState* stream : streams_) stream->queue.host_waited();
}

// Several pairs of a group may exchange at once: these find each other as those of programs do.
Transfer& SimCursor::meet(const Entry& head) {
  const auto& recorded = *head.pointer<const RecordedCommunication>();
  const ChannelPlace& place = places_[head.extra()];
  if (recorded.communication.kind != Collective::exchange)
    return Collectives::meet(*place.meeting, recorded, place.member);
  Communication mine = recorded.communication;
  mine.communicator = place.meeting->rendezvous.communicator;
  mine.member = place.member;
  return core_.collectives->issue(mine, {});
}

void SimCursor::fill_report(RankReport& report) {
  report = recording_.report;
  report.steps = std::move(steps_);
  if (work_ != nullptr) report.work = work_->rows();
  for (std::size_t i = 0; i < places_.size(); ++i) {
    ChannelUse& use = report.channels[recording_.report_rows[i]].use;
    use.busy += places_[i].busy;
    use.exposed += places_[i].exposed;
  }
}

}  // namespace orrery::sim
