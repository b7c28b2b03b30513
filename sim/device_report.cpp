// What a rank reports: how its compute stream and its channels spent their time.
#include <algorithm>
#include <utility>

#include "sim/collectives.hpp"
#include "sim/device.hpp"

namespace orrery::sim {

void SimDevice::compute_gap_begins() {
  const Time now = core_.now;
  for (const auto& flow : flows_) flow->at_gap = flow->blocked_until(now);
}

void SimDevice::note_step(StreamState& stream, std::int64_t step, Time at) {
  if (stream.is_compute) {
    stream.account.starved(at);
    compute_gap_begins();
  }
  const auto place = static_cast<std::size_t>(step);
  if (place >= steps_.size()) steps_.resize(place + 1);
  steps_[place] = {at, time_parts(at)};
}

TimeParts SimDevice::time_parts(Time at) const {
  using Now = TimeAccount::Now;
  switch (compute_->phase) {
    case StreamPhase::running:
      return compute_->account.at(at, Now::computing, WaitClass::idle, {});
    case StreamPhase::fence:
      return compute_->account.at(at, Now::waiting, compute_->waits_for->wait_class, {});
    case StreamPhase::communicating: {
      const auto& transfer = *compute_->queue.front().pointer<const Transfer>();
      const bool edge = transfer.rendezvous->communicator->edge();
      return compute_->account.at(at, Now::waiting, edge ? WaitClass::edge : WaitClass::collective,
                                  {});
    }
    case StreamPhase::fence_passes:
    case StreamPhase::empty:
    case StreamPhase::mark:
      break;
  }
  const HostFlow& flow = compute_issuer_ != nullptr ? *compute_issuer_ : *flows_[0];
  return compute_->account.at(at, Now::starving, WaitClass::idle,
                              flow.blocked_until(at) - flow.at_gap);
}

// Since when the compute stream, or the host whose next operation it lacks, has been waiting for
// the head of `stream`, but not before `start`; time_never if it has not.
Time SimDevice::exposed_since(const StreamState& stream, Time start) const {
  if (compute_ == &stream) return start;
  if (compute_->phase == StreamPhase::fence) {
    const bool waits =
        compute_->waits_for == &stream && compute_->queue.front().event().ordinal >= stream.head();
    return waits ? std::max(start, compute_->began) : time_never;
  }
  if (compute_->phase != StreamPhase::empty) return time_never;
  for (const auto& flow : flows_) {
    if (flow->blocked != HostFlow::Blocked::wait) continue;
    for (const Event& event : flow->wait->events)
      if (event.stream == stream.index && event.ordinal >= stream.head())
        return std::max({start, flow->blocked_from, compute_->account.until()});
  }
  return time_never;
}

// The head of `stream`, a communication that began on all its members at `start`, ends now.
void SimDevice::count_communication(const StreamState& stream, Time start) {
  const Time now = core_.now;
  ChannelPlace& place = places_[stream.queue.front().extra()];
  place.busy += now - start;
  const Time since = exposed_since(stream, start);
  if (since < now) place.exposed += now - since;
}

std::exception_ptr SimDevice::failure_here(const StreamState& stream) const {
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

void SimDevice::fill_report(RankReport& report) {
  report.steps = std::move(steps_);
  for (const ChannelPlace& place : places_) {
    ChannelUse& use = place.channel->use(place.kind);
    use.busy += place.busy;
    use.exposed += place.exposed;
  }
  for (const auto& channel : rank_->channels())
    for (const ChannelUse& use : channel->uses())
      report.channels.push_back(
          {channel->outgoing().group(), channel->outgoing().lane(), channel->edge(), use});
  report.peak = rank_->ledger(Place::device).peak();
  report.host_peak = rank_->ledger(Place::host).peak();
  report.peak_by_label = rank_->ledger(Place::device).peak_by_label();
  report.matrix_flops = rank_->matrix_flops();
  report.losses = rank_->losses();
  report.operations = rank_->operations();
  decisions_ = std::move(rank_->decisions());
  rank_->decisions() = {};
}

}  // namespace orrery::sim
