// Flows of a rank and their baton, waits, signals and messages: the host side of CpuDevice.
#include <algorithm>

#include "backend/cpu/device.hpp"
#include "backend/rank.hpp"

namespace orrery::cpu {

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
            " of stream " + device.stream(wait->events[i].stream).name();
  return text + " (" + to_string(wait->site) + ")";
}

bool Flow::deadline_passed() {
  device.advance();
  return false;
}

std::uint32_t CpuDevice::current_flow() { return flow_of_this_thread; }

void CpuDevice::begin(Rank& rank) {
  flow_of_this_thread = 0;
  const Lock lock(monitor().mutex());
  program_ = &rank;
  flows_.push_back(std::make_unique<Flow>(*this, 0, "main"));
  host_.flow_ended.assign(1, false);
  alive_ = 1;
  holder_ = 0;
  monitor().add(*flows_[0], true);
}

void CpuDevice::end_program() {
  const Lock lock(monitor().mutex());
  end(*flows_[0]);
}

void CpuDevice::fork(std::uint32_t id, const std::string& name, std::function<void()> body) {
  monitor().throw_if_failed();
  const Lock lock(monitor().mutex());
  ORRERY_ASSERT(id == flows_.size(), "flows are numbered in the order of their forks");
  Flow& flow = *flows_.emplace_back(std::make_unique<Flow>(*this, id, name));
  host_.flow_ended.push_back(false);
  ++alive_;
  monitor().add(flow, false);
  flow.thread = std::thread([this, &flow, run = std::move(body)] { run_forked(flow, run); });
}

void CpuDevice::run_forked(Flow& flow, const std::function<void()>& body) {
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
void CpuDevice::take_to_unwind(Lock& lock, Flow& flow) {
  flow.wait = nullptr;
  baton_free_.wait(lock, [&] { return holder_ == nobody || holder_ == flow.id; });
  holder_ = flow.id;
}

void CpuDevice::end(Flow& flow) {
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

bool CpuDevice::block(const Wait& wait) {
  monitor().throw_if_failed();
  if (alive_ == 1 && wait.kind == Wait::Kind::events)
    for (const Event& event : wait.events)
      if (streams_[event.stream]->passed() >= event.ordinal) return true;
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
void CpuDevice::release(Flow& flow) {
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

bool CpuDevice::can_run(const Flow& flow, bool& satisfied) const {
  if (flow.ended || (designated_ != nobody && designated_ != flow.id)) return false;
  satisfied = flow.wait == nullptr || host_.satisfied(*flow.wait);
  return satisfied || (flow.wait->deadline != time_never && monitor().now() >= flow.wait->deadline);
}

bool CpuDevice::try_give() {
  for (std::uint32_t i = 0; i < stream_count_.load(std::memory_order_relaxed); ++i)
    host_.passed[i] = streams_[i]->passed();
  for (std::size_t i = 1; i <= flows_.size(); ++i) {
    Flow& flow = *flows_[(last_ + i) % flows_.size()];
    bool satisfied = false;
    if (!can_run(flow, satisfied)) continue;
    give(flow, satisfied);
    return true;
  }
  return false;
}

void CpuDevice::give(Flow& flow, bool satisfied) {
  const PartTimes waited = host_waited(std::chrono::steady_clock::now());
  host_waited_ = waited;
  flow.satisfied = satisfied;
  holder_ = flow.id;
  designated_ = nobody;
  if (std::exchange(log_handover_, false))
    program_->decisions().record(DecisionKind::handover, last_, flow.id);
  monitor().make_ready(flow);
}

void CpuDevice::watch_for(const Wait& wait) {
  for (const Event& event : wait.events) streams_[event.stream]->watch(event.ordinal);
}

// First asks the streams to tell, then looks: what happens in between is seen or told.
void CpuDevice::advance() {
  if (holder_ != nobody || alive_ == 0 || monitor().failed() || try_give()) return;
  for (const auto& flow : flows_)
    if (!flow->ended && flow->wait != nullptr) watch_for(*flow->wait);
  try_give();
}

void CpuDevice::stream_moved(std::uint32_t) {
  for (std::uint32_t i = 0; i < stream_count_.load(); ++i) streams_[i]->review_fence();
  advance();
}

bool CpuDevice::done(Event event) {
  monitor().throw_if_failed();
  return streams_[event.stream]->passed() >= event.ordinal;
}

std::exception_ptr CpuDevice::failure(Event event) {
  const Lock lock(monitor().mutex());
  return streams_[event.stream]->failure_by(event.ordinal);
}

void CpuDevice::raise(Signal& signal) {
  const Lock lock(monitor().mutex());
  signal.add();
}

void CpuDevice::take(Signal& signal) {
  const Lock lock(monitor().mutex());
  signal.take();
}

void CpuDevice::send(int to, ControlMessage message) {
  monitor().throw_if_failed();
  shared_.deliver(to, std::move(message));
}

void CpuDevice::receive(ControlMessage message) {
  host_.mailbox.push_back(std::move(message));
  advance();
}

ControlMessage CpuDevice::take_message(Tag tag, int from) {
  const Lock lock(monitor().mutex());
  const int place = host_.find(tag, from);
  ORRERY_ASSERT(place >= 0, "a wait for the message was satisfied");
  ControlMessage message = std::move(host_.mailbox[static_cast<std::size_t>(place)]);
  host_.mailbox.erase(host_.mailbox.begin() + place);
  return message;
}

}  // namespace orrery::cpu
