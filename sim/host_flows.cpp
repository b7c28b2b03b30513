// Host flows: the baton, waits, clocks and what wakes them.
#include <algorithm>
#include <utility>

#include "sim/collectives.hpp"
#include "sim/device.hpp"
#include "sim/mail.hpp"

namespace orrery::sim {

// ---- Beginning and end

void SimDevice::run_program(const World::Program& program, RankReport& report) {
  HostFlow& flow = *flows_[0];
  try {
    take_baton(flow);
    rank_ = std::make_unique<Rank>(core_.state, *this, static_cast<int>(id_));
    program(*rank_);
    for (const auto& other : flows_)
      if (other->flow != 0 && !other->ended)
        throw Error(Category::invalid_program, "the rank's program ends while its flow " +
                                                   other->name + " still runs; join it");
    drain(flow);
    for (const std::exception_ptr& failure : poison_)
      if (failure != nullptr) std::rethrow_exception(failure);
    for (const StreamState* const stream : streams_)
      rank_->throw_if_lost({stream->index, stream->passed});
    fill_report(report);
    flow.ended = true;
    baton_ = nullptr;
    rank_.reset();
    core_.mail->rank_ended();
    core_.collectives->rank_ended();
  } catch (Error& error) {
    add_context(error, flow);
    throw;
  }
}

void SimDevice::fork(std::uint32_t flow, const std::string& name, std::function<void()> body) {
  ORRERY_ASSERT(flow == flows_.size(), "flows are numbered in order");
  auto fresh = std::make_unique<HostFlow>();
  HostFlow& f = *fresh;
  f.rank = this;
  f.flow = flow;
  f.name = name;
  f.clock = baton_->clock;
  f.blocked = HostFlow::Blocked::baton;
  flows_.push_back(std::move(fresh));
  ++flows_alive_;
  host_.flow_ended.push_back(false);
  f.actor = core_.engine.spawn(id_, flow, [this, &f, run = std::move(body)] { run_fork(f, run); });
}

void SimDevice::run_fork(HostFlow& flow, const std::function<void()>& body) {
  try {
    suspend(flow, HostFlow::Blocked::baton);
    body();
    catch_up(flow);
    end_flow(flow);
  } catch (Error& error) {
    add_context(error, flow);
    throw;
  }
}

void SimDevice::end_flow(HostFlow& flow) {
  flow.ended = true;
  host_.flow_ended[flow.flow] = true;
  release_baton(flow, Site{});
  --flows_alive_;
  reconsider();
}

// Marks behind the last operations are noted before an actor runs, once the clock is reached.
void SimDevice::drain(HostFlow& flow) {
  catch_up(flow);
  suspend(flow, HostFlow::Blocked::drain);
}

Error& SimDevice::add_context(Error& error, const HostFlow& flow) const {
  if (error.context("time").empty()) {
    if (error.context("rank").empty()) error.with("rank", std::to_string(id_));
    if (flows_.size() > 1) error.with("flow", flow.name);
    error.with("time", time_text(std::max(flow.clock, core_.engine.now())));
  }
  return error;
}

// ---- The baton

bool SimDevice::can_take_baton(const HostFlow& flow) const {
  if (flow.ended || (designated_ >= 0 && designated_ != static_cast<std::int64_t>(flow.flow)))
    return false;
  switch (flow.blocked) {
    case HostFlow::Blocked::baton:
      return true;
    case HostFlow::Blocked::wait:
      return host_.satisfied(*flow.wait) || flow.wait->deadline <= core_.engine.now();
    default:
      return false;
  }
}

HostFlow* SimDevice::next_holder() const {
  if (baton_ != nullptr) return nullptr;
  const std::size_t flows = flows_.size();
  for (std::size_t i = 1; i <= flows; ++i) {
    HostFlow& flow = *flows_[(last_holder_ + i) % flows];
    if (can_take_baton(flow)) return &flow;
  }
  return nullptr;
}

void SimDevice::take_baton(HostFlow& flow) {
  baton_ = &flow;
  designated_ = -1;
  if (std::exchange(log_handover_, false))
    rank_->decisions().record(DecisionKind::handover, last_holder_, flow.flow);
}

// `flow` waits or ends.
void SimDevice::release_baton(HostFlow& flow, Site site) {
  if (flows_alive_ > 1) {
    DecisionLog& log = rank_->decisions();
    if (log.replaying()) designated_ = log.next(DecisionKind::handover, flow.flow, site);
    log_handover_ = true;
  }
  last_holder_ = flow.flow;
  baton_ = nullptr;
}

// ---- Blocking

// Streams keep `passed` where their operations touch it; waits read this copy.
HostState& SimDevice::host() {
  for (StreamState* const stream : streams_) core_.streams->settle(*stream);
  return as_passed();
}

HostState& SimDevice::as_passed() {
  for (const auto& stream : streams_) host_.passed[stream->index] = stream->passed;
  return host_;
}

bool SimDevice::can_go_on(const HostFlow& flow) const {
  const bool takes_turn =
      flow.blocked == HostFlow::Blocked::baton || flow.blocked == HostFlow::Blocked::wait;
  return takes_turn ? next_holder() == &flow : is_over(flow);
}

// Called as streams settle.
void SimDevice::reconsider() {
  as_passed();
  for (const auto& flow : flows_)
    if (flow->blocked != HostFlow::Blocked::no && can_go_on(*flow))
      core_.engine.make_runnable(flow->actor);
}

void SimDevice::suspend(HostFlow& flow, HostFlow::Blocked why) {
  // The engine unwinds a failed run by an exception through block().
  struct Reset {
    SimDevice& device;
    HostFlow& flow;
    ~Reset() {
      flow.blocked = HostFlow::Blocked::no;
      flow.wait = nullptr;
    }
  };
  const bool takes_baton = why == HostFlow::Blocked::wait || why == HostFlow::Blocked::baton;
  {
    const Reset reset{*this, flow};
    flow.blocked = why;
    watch(flow);
    if (why == HostFlow::Blocked::wait) {
      release_baton(flow, flow.wait->site);
      if (flows_alive_ > 1) reconsider();
    }
    host();
    // Whoever is woken at an instant lets the one pass whose turn it is.
    while (!can_go_on(flow)) {
      if (HostFlow* const next = takes_baton ? next_holder() : nullptr)
        core_.engine.make_runnable(next->actor);
      core_.engine.block();
    }
    unblock(flow);
    if (takes_baton) take_baton(flow);
  }
  update_thresholds();
}

// Lets the engine reach the flow's clock, so that what it sees is not of the past.
void SimDevice::catch_up(HostFlow& flow) {
  if (core_.engine.now() >= flow.clock) return;
  core_.engine.schedule(flow.clock, core_.extra_key(id_), make_payload(Due::flow_wakes, &flow));
  suspend(flow, HostFlow::Blocked::clock);
}

bool SimDevice::block(const Wait& wait) {
  HostFlow& flow = *baton_;
  const bool for_device = wait.kind == Wait::Kind::events;
  if (!for_device || wait.events.size() > 1 || wait.deadline != time_never) catch_up(flow);
  const Time now = core_.engine.now();
  const bool over = host().satisfied(wait) || wait.deadline <= now;
  if (!over || flows_alive_ > 1) {
    if (wait.deadline != time_never && wait.deadline > now)
      core_.engine.schedule(wait.deadline, core_.extra_key(id_),
                            make_payload(Due::flow_wakes, &flow));
    flow.wait = &wait;
    flow.wait_class = class_of(wait);
    flow.blocked_from = flow.clock;
    suspend(flow, HostFlow::Blocked::wait);
  }
  if (for_device) flow.clock += costs_.wait;
  return host().satisfied(wait);
}

// ---- What flows see and do

bool SimDevice::done(Event event) {
  catch_up(*baton_);
  core_.streams->settle(*streams_[event.stream]);
  return streams_[event.stream]->passed >= event.ordinal;
}

std::exception_ptr SimDevice::failure(Event event) {
  const StreamState& stream = *streams_[event.stream];
  return event.ordinal >= stream.poisoned_from ? poison_of(stream) : nullptr;
}

Time SimDevice::now() {
  catch_up(*baton_);
  return baton_->clock;
}

void SimDevice::raise(Signal& signal) {
  catch_up(*baton_);
  signal.add();
  if (flows_.size() > 1) reconsider();
}

void SimDevice::take(Signal& signal) { signal.take(); }

void SimDevice::send(int to, ControlMessage message) {
  catch_up(*baton_);
  core_.mail->send(id_, to, std::move(message), costs_.control_latency);
}

void SimDevice::deliver(ControlMessage message) {
  host_.mailbox.push_back(std::move(message));
  reconsider();
}

ControlMessage SimDevice::take_message(Tag tag, int from) {
  const int at = host_.find(tag, from);
  ORRERY_ASSERT(at >= 0, "a message is taken after a wait for it");
  ControlMessage message = std::move(host_.mailbox[static_cast<std::size_t>(at)]);
  host_.mailbox.erase(host_.mailbox.begin() + at);
  return message;
}

}  // namespace orrery::sim
