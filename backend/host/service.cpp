#include "backend/host/service.hpp"

namespace orrery::host {

ControlService::ControlService(Shared& shared, int address, std::string name,
                               World::ServiceProgram program)
    : shared_(shared),
      address_(address),
      name_(std::move(name)),
      program_(std::move(program)),
      log_(shared.state.options, address) {}

void ControlService::start() {
  {
    const Lock lock(shared_.monitor.mutex());
    shared_.monitor.add(*this, true);
  }
  thread_ = std::thread([this] { run(); });
}

void ControlService::join() { thread_.join(); }

void ControlService::run() {
  try {
    program_(*this);
  } catch (const Unwind&) {
  } catch (...) {
    const std::exception_ptr failure = with_context(std::current_exception(), {{"service", name_}});
    const Lock lock(shared_.monitor.mutex());
    shared_.monitor.fail(failure);
  }
  const Lock lock(shared_.monitor.mutex());
  shared_.monitor.remove(*this);
}

void ControlService::receive(ControlMessage message) {
  mailbox_.mailbox.push_back(std::move(message));
  shared_.monitor.make_ready(*this);
}

void ControlService::ranks_have_ended() {
  finishing_ = true;
  shared_.monitor.make_ready(*this);
}

Random& ControlService::rng(Purpose purpose) {
  return rngs_
      .try_emplace(purpose, shared_.state.options.seed, purpose,
                   static_cast<std::uint32_t>(address_))
      .first->second;
}

void ControlService::control_send(int to, Tag tag, std::span<const std::int64_t> values,
                                  Site site) {
  const int last =
      shared_.state.options.grid.size() + static_cast<int>(shared_.state.services.size());
  if (to < 0 || to >= last)
    throw Error(Category::invalid_program, "control message to " + std::to_string(to) +
                                               "; addresses end at " + std::to_string(last - 1));
  shared_.monitor.throw_if_failed();
  shared_.deliver(to, {address_, tag, {values.begin(), values.end()}, site});
}

std::optional<ControlMessage> ControlService::control_receive(Tag tag, int from, Seconds timeout) {
  Monitor& monitor = shared_.monitor;
  const ServiceLog::Receive receive = log_.begin(from, timeout);
  if (receive.missed) return std::nullopt;
  from = receive.from;
  std::optional<Instant> deadline;
  if (receive.timed) deadline = monitor.instant(monitor.now() + to_time(timeout));
  Lock lock(monitor.mutex());
  tag_ = tag;
  while (true) {
    const int place = mailbox_.find(tag, from);
    if (place >= 0) {
      ControlMessage message = std::move(mailbox_.mailbox[static_cast<std::size_t>(place)]);
      mailbox_.mailbox.erase(mailbox_.mailbox.begin() + place);
      log_.received(receive, message);
      return message;
    }
    if (finishing_) throw Unwind{};
    if (deadline && std::chrono::steady_clock::now() >= *deadline) {
      log_.timed_out(receive);
      return std::nullopt;
    }
    monitor.block(lock, *this, deadline);
  }
}

std::string ControlService::blocked_in() const {
  return "waits for a message with tag " + std::to_string(tag_);
}

}  // namespace orrery::host
