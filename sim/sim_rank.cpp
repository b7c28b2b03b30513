// What is alike for all ranks: streams and their queues, what hosts wait for, and how the compute
// stream and the channels spent their time.
#include "sim/sim_rank.hpp"

#include <algorithm>
#include <utility>

#include "backend/rank.hpp"
#include "sim/collectives.hpp"
#include "sim/recording.hpp"

namespace orrery::sim {

BlockedTime HostFlow::blocked_until(Time now) const {
  BlockedTime time = blocked_time;
  const bool waits = blocked == Blocked::wait || blocked == Blocked::queue;
  if (waits && now > blocked_from) time.add(wait_class, now - blocked_from);
  return time;
}

namespace {
// Of the head of a stream that is communicating.
bool is_on_edge(const Entry& head) {
  if (head.kind() == EntryKind::communication)
    return head.pointer<const Transfer>()->rendezvous->communicator->edge();
  const Collective kind = head.pointer<const RecordedCommunication>()->communication.kind;
  return kind == Collective::send || kind == Collective::receive;
}
}  // namespace

SimRank::SimRank(Core& core, std::uint32_t id)
    : core_(core), id_(id), costs_(core.machine.host(static_cast<int>(id))) {
  if (!core.options.host_clock) costs_.launch = costs_.communicate = costs_.wait = Time{};
  flows_.push_back(std::make_unique<HostFlow>());
  main_ = flows_[0].get();
  main_->rank = this;
  main_->name = "main";
  if (core.options.work_times) work_ = std::make_unique<WorkTimes>();
}

// ---- Streams

void SimRank::add_stream(const std::string& name) {
  const auto index = static_cast<std::uint32_t>(streams_.size());
  const bool together = index < scripted_streams_.size();
  if (!together && index % StreamState::neighbours == 0)
    stream_blocks_.push_back(std::make_unique<Neighbours>());
  StreamState& fresh = together ? scripted_streams_[index]
                                : (*stream_blocks_.back())[index % StreamState::neighbours];
  fresh.all_together = together;
  fresh.device = this;
  fresh.rank = id_;
  fresh.index = static_cast<std::uint16_t>(index);
  if (compute_ == nullptr || name == "compute") {
    if (compute_ != nullptr) compute_->is_compute = false;
    account_ = {};
    compute_ = &fresh;
    compute_->is_compute = true;
  }
  if (core_.trace != nullptr) {
    if (index == 0) core_.trace->name_rank(id_);
    core_.trace->name_stream({id_, index}, name);
  }
  streams_.push_back(&fresh);
}

void SimRank::mark_issued(HostFlow& flow, StreamState& stream) {
  if (stream.phase != StreamPhase::empty) return;
  if (stream.is_compute) account_.host_blocked(flow.blocked_time - flow.at_gap);
  core_.streams->start(stream);
}

// ---- Waits

// Half of the queue: a host that waited for each single place would change stacks per operation.
void SimRank::wants_room(HostFlow& flow, const StreamState& stream) const {
  flow.room = {stream.index, stream.issued - core_.options.launch_queue / 2};
  flow.wait_class = stream.wait_class;
  flow.blocked_from = flow.clock;
}

bool SimRank::is_over(const HostFlow& flow) const {
  const auto passed = [this](Event event) {
    return streams_[event.stream]->passed >= event.ordinal;
  };
  switch (flow.blocked) {
    case HostFlow::Blocked::no:
    case HostFlow::Blocked::baton:
      return true;
    case HostFlow::Blocked::wait:
      return std::any_of(flow.wait->events.begin(), flow.wait->events.end(), passed);
    case HostFlow::Blocked::clock:
      return core_.engine.now() >= flow.clock;
    case HostFlow::Blocked::queue:
      return passed(flow.room);
    case HostFlow::Blocked::drain:
      return std::all_of(streams_.begin(), streams_.end(),
                         [](const auto& stream) { return stream->passed == stream->issued; });
  }
  return true;
}

void SimRank::watch(const HostFlow& flow) {
  const auto lower = [this](Event event) {
    std::uint32_t& threshold = streams_[event.stream]->host_threshold;
    threshold = std::min(threshold, static_cast<std::uint32_t>(event.ordinal));
    core_.streams->expect(*streams_[event.stream], event.ordinal);
  };
  if (flow.blocked == HostFlow::Blocked::queue) lower(flow.room);
  if (flow.blocked == HostFlow::Blocked::wait)
    for (const Event& event : flow.wait->events) lower(event);
  if (flow.blocked == HostFlow::Blocked::drain)
    for (const auto& stream : streams_) stream->host_threshold = stream->issued;
}

void SimRank::update_thresholds() {
  for (const auto& stream : streams_) stream->host_threshold = ~std::uint32_t{0};
  for (const auto& flow : flows_) watch(*flow);
}

void SimRank::unblock(HostFlow& flow) const {
  if (flow.blocked == HostFlow::Blocked::clock) return;
  const Time now = core_.engine.now();
  flow.blocked_time = flow.blocked_until(now);
  flow.clock = std::max(flow.clock, now);
}

WaitClass SimRank::class_of(const Wait& wait) const {
  WaitClass result = WaitClass::idle;
  for (const Event& event : wait.events) {
    const WaitClass one = streams_[event.stream]->wait_class;
    if (result != WaitClass::collective && one != WaitClass::idle) result = one;
  }
  return result;
}

// ---- Reports

void SimRank::compute_gap_begins() {
  const Time now = core_.now;
  for (const auto& flow : flows_) flow->at_gap = flow->blocked_until(now);
}

void SimRank::note_step(StreamState& stream, std::int64_t step, Time at) {
  if (stream.is_compute) {
    account_.starved(at);
    compute_gap_begins();
  }
  core_.streams->settle(*compute_);
  steps_.set(static_cast<std::size_t>(step), {at, time_parts(at)});
  if (work_ != nullptr) work_->step_ended();
}

TimeParts SimRank::time_parts(Time at) const {
  using Now = TimeAccount::Now;
  switch (compute_->phase) {
    case StreamPhase::running:
      return account_.at(at, Now::computing, WaitClass::idle, {});
    case StreamPhase::fence:
      return account_.at(at, Now::waiting, compute_->waits_for->wait_class, {});
    case StreamPhase::communicating: {
      const bool edge = is_on_edge(compute_->queue.front());
      return account_.at(at, Now::waiting, edge ? WaitClass::edge : WaitClass::collective, {});
    }
    case StreamPhase::fence_passes:
    case StreamPhase::empty:
    case StreamPhase::mark:
      break;
  }
  const HostFlow& flow = compute_issuer_ != nullptr ? *compute_issuer_ : *main_;
  return account_.at(at, Now::starving, WaitClass::idle, flow.blocked_until(at) - flow.at_gap);
}

// Since when the compute stream, or the host whose next operation it lacks, has been waiting for
// the head of `stream`, but not before `start`; time_never if it has not.
Time SimRank::exposed_since(const StreamState& stream, Time start) const {
  if (compute_ == &stream) return start;
  if (compute_->phase == StreamPhase::fence) {
    const bool waits = compute_->waits_for == &stream && compute_->waits_until >= stream.head();
    return waits ? std::max(start, compute_->began) : time_never;
  }
  if (compute_->phase != StreamPhase::empty) return time_never;
  for (const auto& flow : flows_) {
    if (flow->blocked != HostFlow::Blocked::wait) continue;
    for (const Event& event : flow->wait->events)
      if (event.stream == stream.index && event.ordinal >= stream.head())
        return std::max({start, flow->blocked_from, account_.until()});
  }
  return time_never;
}

// The head of `stream`, a communication that began on all its members at `start`, ends now.
void SimRank::count_communication(const StreamState& stream, Time start) {
  const Time now = core_.now;
  ChannelPlace& place = places_[stream.queue.front().extra()];
  place.busy += now - start;
  const Time since = exposed_since(stream, start);
  if (since < now) place.exposed += now - since;
}

std::exception_ptr SimRank::failure_here(const StreamState& stream) const {
  try {
    throw;
  } catch (Error& error) {
    if (error.context("time").empty())
      error.with("rank", std::to_string(id_))
          .with("stream", stream_name(stream.index))
          .with("operation", std::to_string(stream.head()))
          .with("time", time_text(core_.now));
    return std::current_exception();
  } catch (...) {
    return std::current_exception();
  }
}

const PreparedKernel& copy_price(Catalogue& catalogue, const Operand& from, const Operand& to) {
  const Dtype dtype = from.storage->dtype;
  const bool within = from.storage->place == to.storage->place;
  return *catalogue
              .prepare(within ? Kernel::streaming("copy", from.elements(), to.elements(), dtype,
                                                  {Role::read, Role::write})
                              : Kernel::host_copy(to.elements(), dtype))
              .kernel;
}

void fill_from(const Rank& rank, RankReport& report) {
  for (const auto& channel : rank.channels())
    for (const ChannelUse& use : channel->uses())
      report.channels.push_back(
          {channel->outgoing().group(), channel->outgoing().lane(), channel->edge(), use});
  report.peak = rank.ledger(Place::device).peak();
  report.host_peak = rank.ledger(Place::host).peak();
  report.peak_by_label = rank.ledger(Place::device).peak_by_label();
  report.matrix_flops = rank.matrix_flops();
  report.losses = rank.losses();
  report.operations = rank.operations();
}

}  // namespace orrery::sim
