// Flows of a rank and their baton, waits, signals and messages: the host side of HostDevice.
#include <algorithm>

#include "backend/host/device.hpp"
#include "backend/rank.hpp"

namespace orrery::host {

namespace {
thread_local std::uint32_t flow_of_this_thread = 0;
}

std::string Flow::who() const { return "rank " + std::to_string(device.rank()) + " flow " + name; }

std::string Flow::blocked_in() const {
  if (wait == nullptr) return "has not started";
  if (wait->kind != Wait::Kind::events) return "waits for " + wait->describe();
  std::string text = "waits for";
  for (std::size_t i = 0; i < wait->events.size(); ++i)
    text += (i > 0 ? " or operation " : " operation ") + std::to_string(wait->events[i].ordinal) +
            " of stream " + device.stream_name(wait->events[i].stream);
  return text + " (" + to_string(wait->site) + ")";
}

bool Flow::deadline_passed() {
  device.advance();
  return false;
}

std::uint32_t HostDevice::current_flow() { return flow_of_this_thread; }

void HostDevice::begin(Rank& rank) {
  flow_of_this_thread = 0;
  const Lock lock(monitor().mutex());
  program_ = &rank;
  flows_.push_back(std::make_unique<Flow>(*this, 0, "main"));
  host_.flow_ended.assign(1, false);
  alive_ = 1;
  holder_ = 0;
  monitor().add(*flows_[0], true);
}

void HostDevice::end_program() {
  const Lock lock(monitor().mutex());
  end(*flows_[0]);
}

void HostDevice::fork(std::uint32_t id, const std::string& name, std::function<void()> body) {
  monitor().throw_if_failed();
  const Lock lock(monitor().mutex());
  ORRERY_ASSERT(id == flows_.size(), "flows are numbered in the order of their forks");
  Flow& flow = *flows_.emplace_back(std::make_unique<Flow>(*this, id, name));
  host_.flow_ended.push_back(false);
  ++alive_;
  monitor().add(flow, false);
  flow.thread = std::thread([this, &flow, run = std::move(body)] { run_forked(flow, run); });
}

void HostDevice::run_forked(Flow& flow, const std::function<void()>& body) {
  flow_of_this_thread = flow.id;
  try {
    {
      Lock lock(monitor().mutex());
      try {
        monitor().wait_until_ready(lock, flow);
      } catch (...) {
        take_to_unwind(lock, flow);
        throw;
      }
    }
    body();
  } catch (...) {
    const std::exception_ptr failure = with_context(
        std::current_exception(), {{"rank", std::to_string(rank_)}, {"flow", flow.name}});
    const Lock lock(monitor().mutex());
    monitor().fail(failure);
  }
  const Lock lock(monitor().mutex());
  end(flow);
}

// In a run that has failed, flows of a rank still unwind one at a time: they share its tensors.
void HostDevice::take_to_unwind(Lock& lock, Flow& flow) {
  flow.wait = nullptr;
  baton_free_.wait(lock, [&] { return holder_ == nobody || holder_ == flow.id; });
  holder_ = flow.id;
}

void HostDevice::end(Flow& flow) {
  flow.ended = true;
  host_.flow_ended[flow.id] = true;
  if (!monitor().failed()) {
    try {
      release(flow);
    } catch (...) {
      monitor().fail(std::current_exception());
    }
  }
  holder_ = nobody;
  --alive_;
  baton_free_.notify_all();
  if (!monitor().failed()) advance();
  monitor().remove(flow);
}

bool HostDevice::block(const Wait& wait) {
  monitor().throw_if_failed();
  if (alive_ == 1 && wait.kind == Wait::Kind::events)
    for (const Event& event : wait.events)
      if (passed(event.stream) >= event.ordinal) return true;
  Lock lock(monitor().mutex());
  Flow& flow = *flows_[flow_of_this_thread];
  flow.wait = &wait;
  try {
    release(flow);
  } catch (...) {  // the log of a replay does not fit
    flow.wait = nullptr;
    throw;
  }
  advance();
  if (holder_ != flow.id) {
    try {
      std::optional<Instant> deadline;
      if (wait.deadline != time_never) deadline = monitor().instant(wait.deadline);
      monitor().block(lock, flow, deadline);
    } catch (...) {
      take_to_unwind(lock, flow);
      throw;
    }
  }
  flow.wait = nullptr;
  return flow.satisfied;
}

// `flow` lets go of the baton.
void HostDevice::release(Flow& flow) {
  if (alive_ > 1) {
    DecisionLog& log = program_->decisions();
    if (log.replaying())
      designated_ = log.next(DecisionKind::handover, flow.id, flow.wait ? flow.wait->site : Site{});
    log_handover_ = true;
  }
  holder_ = nobody;
  last_ = flow.id;
  host_waits_since_ = std::chrono::steady_clock::now();
}

bool HostDevice::can_run(const Flow& flow, bool& satisfied) const {
  if (flow.ended || (designated_ != nobody && designated_ != flow.id)) return false;
  satisfied = flow.wait == nullptr || host_.satisfied(*flow.wait);
  return satisfied || (flow.wait->deadline != time_never && monitor().now() >= flow.wait->deadline);
}

bool HostDevice::try_give() {
  for (std::uint32_t i = 0; i < stream_count_.load(std::memory_order_relaxed); ++i)
    host_.passed[i] = passed(i);
  for (std::size_t i = 1; i <= flows_.size(); ++i) {
    Flow& flow = *flows_[(last_ + i) % flows_.size()];
    bool satisfied = false;
    if (!can_run(flow, satisfied)) continue;
    give(flow, satisfied);
    return true;
  }
  return false;
}

void HostDevice::give(Flow& flow, bool satisfied) {
  const Instant now = std::chrono::steady_clock::now();
  host_waited_ = host_waited(now);
  if (const Wait* wait = keeps_host_waits_ ? main_wait() : nullptr)
    for (const Event& event : wait->events)
      host_waits_.push_back({event.stream, monitor().at(host_waits_since_), monitor().at(now)});
  flow.satisfied = satisfied;
  holder_ = flow.id;
  designated_ = nobody;
  if (std::exchange(log_handover_, false))
    program_->decisions().record(DecisionKind::handover, last_, flow.id);
  monitor().make_ready(flow);
}

// First asks the streams to tell, then looks: what happens in between is seen or told.
void HostDevice::advance() {
  if (holder_ != nobody || alive_ == 0 || monitor().failed() || try_give()) return;
  for (const auto& flow : flows_)
    if (!flow->ended && flow->wait != nullptr)
      for (const Event& event : flow->wait->events) watch(event);
  try_give();
}

bool HostDevice::done(Event event) {
  monitor().throw_if_failed();
  return passed(event.stream) >= event.ordinal;
}

std::exception_ptr HostDevice::failure(Event event) {
  const Lock lock(monitor().mutex());
  return failure_by(event);
}

void HostDevice::raise(Signal& signal) {
  const Lock lock(monitor().mutex());
  signal.add();
}

void HostDevice::take(Signal& signal) {
  const Lock lock(monitor().mutex());
  signal.take();
}

void HostDevice::send(int to, ControlMessage message) {
  monitor().throw_if_failed();
  shared_.deliver(to, std::move(message));
}

void HostDevice::receive(ControlMessage message) {
  host_.mailbox.push_back(std::move(message));
  advance();
}

ControlMessage HostDevice::take_message(Tag tag, int from) {
  const Lock lock(monitor().mutex());
  const int place = host_.find(tag, from);
  ORRERY_ASSERT(place >= 0, "a wait for the message was satisfied");
  ControlMessage message = std::move(host_.mailbox[static_cast<std::size_t>(place)]);
  host_.mailbox.erase(host_.mailbox.begin() + place);
  return message;
}

}  // namespace orrery::host
