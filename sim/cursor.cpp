#include "sim/cursor.hpp"

#include <algorithm>

namespace orrery::sim {

SimCursor::SimCursor(Core& core, std::uint32_t id, const Recording& recording)
    : SimRank(core, id), recording_(recording) {
  streams_.reserve(recording.streams.size());
  places_.reserve(recording.places.size());
  ends_.reserve(recording.channels.size());
  for (const RecordedChannel& channel : recording.channels) ends_.push_back(open(channel));
  for (const auto& [channel, kind] : recording.places) {
    const bool receiver = kind == Collective::receive;
    places_.push_back({recording.channels[channel].edge ? (receiver ? 1 : 0) : ends_[channel].index,
                       Time{}, Time{}});
  }
}

SimCursor::Ends SimCursor::open(const RecordedChannel& channel) const {
  Communicators& all = core_.state.communicators;
  const auto meeting = [this](Communicator& communicator) {
    return &core_.collectives->meeting_of(communicator);
  };
  const Grid& grid = core_.state.options.grid;
  const int rank = static_cast<int>(id_);
  if (!channel.edge) {
    Communicator& group = all.group(rank, channel.axes, channel.lane);
    Meeting* const both = meeting(group);
    return {both, both, all.index_in_group(rank, channel.axes, group), false};
  }
  const Axis axis = channel.axes.first();
  const int size = grid.size(axis);
  const int before = (grid.coordinate(rank, axis) - channel.offset) % size;
  const int previous = grid.rank_with(rank, axis, (before + size) % size);
  return {meeting(all.edge(rank, axis, channel.offset, channel.lane)),
          meeting(all.edge(previous, axis, channel.offset, channel.lane)), 0, true};
}

void SimCursor::reconsider() {
  HostFlow& flow = *flows_[0];
  if (woken_ || flow.blocked == HostFlow::Blocked::no || !is_over(flow)) return;
  woken_ = true;
  core_.woken.push_back(this);
}

void SimCursor::go_on() {
  HostFlow& flow = *flows_[0];
  woken_ = false;
  if (flow.blocked != HostFlow::Blocked::no) {
    if (!is_over(flow)) return;
    const bool paid_wait = flow.blocked == HostFlow::Blocked::wait;
    unblock(flow);
    flow.blocked = HostFlow::Blocked::no;
    flow.wait = nullptr;
    if (paid_wait) flow.clock += costs_.wait;
    update_thresholds();
  }
  while (at_ < recording_.records.size())
    if (!issue(recording_.records[at_++])) return;
  if (leave()) flow.ended = true;
}

// The host reaches its clock, then waits for its streams: as SimDevice::drain.
bool SimCursor::leave() {
  HostFlow& flow = *flows_[0];
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
  flows_[0]->blocked = why;
  watch(*flows_[0]);
}

// Whether the host can go on.
bool SimCursor::wait_for(const RecordedWait& recorded) {
  HostFlow& flow = *flows_[0];
  StreamState& stream = *streams_[recorded.event.stream];
  core_.streams->settle(stream);
  if (stream.passed >= recorded.event.ordinal) {
    flow.clock += costs_.wait;
    return true;
  }
  flow.wait = &recorded.wait;
  flow.wait_class = class_of(recorded.wait);
  flow.blocked_from = flow.clock;
  stop(HostFlow::Blocked::wait);
  return false;
}

bool SimCursor::issue(const Record& record) {
  HostFlow& flow = *flows_[0];
  Time cost = costs_.launch;
  Entry entry;
  switch (record.kind) {
    case RecordKind::open_stream:
      add_stream(recording_.streams[record.stream]);
      return true;
    case RecordKind::wait:
      return wait_for(recording_.waits[record.number]);
    case RecordKind::mark:
      enqueue_mark(flow, *streams_[record.stream], record.number);
      return true;
    case RecordKind::kernel:
      entry = Entry(EntryKind::kernel, flow.clock + cost, record.pointer);
      break;
    case RecordKind::sequence:
      entry = Entry(EntryKind::sequence, flow.clock + cost, record.pointer);
      cost = cost * static_cast<const Sequence*>(record.pointer)->steps().size();
      break;
    case RecordKind::copy:
      entry = Entry(EntryKind::copy, flow.clock + cost, record.pointer);
      break;
    case RecordKind::upload:
      entry = Entry(EntryKind::upload, flow.clock + cost, nullptr);
      break;
    case RecordKind::fence:
      entry = Entry::fence(flow.clock + cost, {record.place, record.number});
      break;
    case RecordKind::communication: {
      cost = costs_.communicate;
      const RecordedCommunication& recorded = recording_.communications[record.number];
      note_wait_class(*streams_[record.stream], recording_.channels[recorded.channel].edge
                                                    ? WaitClass::edge
                                                    : WaitClass::collective);
      entry = Entry(EntryKind::meeting, flow.clock + cost, &recorded, record.place);
      break;
    }
  }
  StreamState& stream = *streams_[record.stream];
  if (!enqueue(flow, stream, entry, cost)) return true;
  wants_room(flow, stream);
  stop(HostFlow::Blocked::queue);
  return false;
}

// Several pairs of a group may exchange at once: these find each other as those of programs do.
Transfer& SimCursor::meet(const RecordedCommunication& recorded) {
  const Ends& ends = ends_[recorded.channel];
  const Collective kind = recorded.communication.kind;
  if (kind == Collective::exchange) {
    Communication mine = recorded.communication;
    mine.communicator = ends.out->rendezvous.communicator;
    mine.member = ends.index;
    return core_.collectives->issue(mine, {});
  }
  if (!ends.edge) return Collectives::meet(*ends.out, recorded, ends.index);
  const bool receives = kind == Collective::receive;
  return Collectives::meet(receives ? *ends.in : *ends.out, recorded, receives ? 1 : 0);
}

void SimCursor::fill_report(RankReport& report) {
  report = recording_.report;
  report.steps = std::move(steps_);
  for (std::size_t i = 0; i < places_.size(); ++i) {
    ChannelUse& use = report.channels[recording_.report_rows[i]].use;
    use.busy += places_[i].busy;
    use.exposed += places_[i].exposed;
  }
}

}  // namespace orrery::sim
