#include "sim/mail.hpp"

#include <algorithm>
#include <utility>

#include "sim/device.hpp"

namespace orrery::sim {

namespace {

// Ends a service from within its receive. Not a std::exception, so that a program's handlers let it
// pass.
struct ServiceEnds {};

std::string describe(const ControlMessage& message, int to) {
  return "message with tag " + std::to_string(message.tag) + " from " +
         std::to_string(message.from) + " to " + std::to_string(to) + " (" +
         to_string(message.site) + ")";
}

}  // namespace

// ---- Services

void SimService::run(const World::ServiceProgram& program) {
  try {
    program(*this);
  } catch (const ServiceEnds&) {
  } catch (Error& error) {
    throw error.with("service", name_).with("time", time_text(core_.engine.now()));
  }
}

void SimService::deliver(ControlMessage message) {
  mailbox_.push_back(std::move(message));
  wake();
}

Random& SimService::rng(Purpose purpose) {
  const auto found = rngs_.find(purpose);
  if (found != rngs_.end()) return found->second;
  return rngs_.emplace(purpose, Random(core_.state.options.seed, purpose, address_)).first->second;
}

void SimService::control_send(int to, Tag tag, std::span<const std::int64_t> values, Site site) {
  const int addresses = static_cast<int>(core_.rank_count() + core_.mail->services().size());
  if (to < 0 || to >= addresses)
    throw Error(Category::invalid_program, "control message to " + std::to_string(to) +
                                               "; addresses end at " +
                                               std::to_string(addresses - 1));
  ControlMessage message{static_cast<int>(address_), tag, {values.begin(), values.end()}, site};
  core_.mail->send(address_, to, std::move(message), core_.machine.host(0).control_latency);
}

std::optional<ControlMessage> SimService::control_receive(Tag tag, int from, Seconds timeout) {
  const ServiceLog::Receive receive = log_.begin(from, timeout);
  if (receive.missed) return std::nullopt;
  const bool timed = receive.timed;
  from = receive.from;
  const Time deadline = timed ? core_.engine.now() + to_time(timeout) : time_never;
  if (timed)
    core_.engine.schedule(deadline, core_.extra_key(address_),
                          make_payload(Due::service_wakes, this));
  for (;;) {
    const auto found = std::find_if(mailbox_.begin(), mailbox_.end(), [&](const auto& message) {
      return message.tag == tag && (from == any_source || message.from == from);
    });
    if (found != mailbox_.end()) {
      ControlMessage message = std::move(*found);
      mailbox_.erase(found);
      log_.received(receive, message);
      return message;
    }
    if (core_.mail->stopping()) throw ServiceEnds{};
    if (core_.engine.now() >= deadline) {
      log_.timed_out(receive);
      return std::nullopt;
    }
    core_.engine.block();
  }
}

// ---- Messages

SimService& Mail::add_service(const std::string& name) {
  const auto address = core_.rank_count() + static_cast<std::uint32_t>(services_.size());
  return *services_.emplace_back(std::make_unique<SimService>(core_, address, name));
}

void Mail::send(std::uint32_t from, int to, ControlMessage message, Time latency) {
  if (free_.empty()) free_.push_back(&messages_.emplace_back());
  MessageInFlight& slot = *free_.back();
  free_.pop_back();
  slot = {to, std::move(message)};
  ++in_flight_;
  core_.engine.schedule(core_.engine.now() + latency, core_.extra_key(from),
                        make_payload(Due::message, &slot));
}

void Mail::due(MessageInFlight& slot) {
  const auto to = static_cast<std::uint32_t>(slot.to);
  if (to < core_.rank_count())
    core_.devices[to]->deliver(std::move(slot.message));
  else
    services_[to - core_.rank_count()]->deliver(std::move(slot.message));
  free_.push_back(&slot);
  --in_flight_;
  stop_services_when_over();
}

void Mail::rank_ended() {
  --ranks_running_;
  stop_services_when_over();
}

void Mail::stop_services_when_over() {
  if (!stopping()) return;
  for (const auto& service : services_) service->wake();
}

void Mail::check_all_received() const {
  constexpr std::size_t named = 8;
  std::vector<std::string> lost;
  for (const auto& device : core_.devices)
    for (const ControlMessage& message : device->host().mailbox)
      lost.push_back(describe(message, static_cast<int>(device->id())));
  for (std::size_t i = 0; i < services_.size(); ++i)
    for (const ControlMessage& message : services_[i]->mailbox())
      lost.push_back(describe(message, static_cast<int>(core_.rank_count() + i)));
  if (in_flight_ > 0)
    for (const MessageInFlight& slot : messages_)
      if (std::find(free_.begin(), free_.end(), &slot) == free_.end())
        lost.push_back(describe(slot.message, slot.to) + ", still under way");
  if (lost.empty()) return;
  Error error(Category::mismatch,
              std::to_string(lost.size()) + " control messages were never received");
  for (std::size_t i = 0; i < std::min(lost.size(), named); ++i) error.with("lost", lost[i]);
  throw error;
}

}  // namespace orrery::sim
