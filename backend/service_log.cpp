#include "backend/service_log.hpp"

#include "backend/world.hpp"

namespace orrery {

namespace {
constexpr int nobody = -3;
constexpr std::int64_t in_vain = -2;
}  // namespace

ServiceLog::ServiceLog(const WorldOptions& options, int address) {
  log_.mode = options.decisions;
  if (!log_.replaying()) return;
  if (static_cast<std::size_t>(address) >= options.replay.size())
    throw Error(Category::replay, "the decision log is of a run with " +
                                      std::to_string(options.replay.size()) +
                                      " ranks and services; the service with address " +
                                      std::to_string(address) + " is not among them");
  log_.decisions = options.replay[static_cast<std::size_t>(address)].decisions;
}

ServiceLog::Receive ServiceLog::begin(int from, Seconds timeout) {
  Receive receive{from, timeout < Seconds(1e6)};
  receive.logged = receive.timed || from == any_source;
  if (!receive.logged || !log_.replaying()) return receive;
  receive.timed = false;
  if (log_.finished()) {
    receive.from = nobody;
    return receive;
  }
  const std::int64_t source = log_.next(DecisionKind::receive, 0, {});
  receive.missed = source == in_vain;
  receive.from = static_cast<int>(source);
  return receive;
}

void ServiceLog::received(const Receive& receive, const ControlMessage& message) {
  if (receive.logged) log_.record(DecisionKind::receive, 0, message.from);
}

void ServiceLog::timed_out(const Receive& receive) {
  if (receive.logged) log_.record(DecisionKind::receive, 0, in_vain);
}

Time ServiceLog::clock(Time now) {
  if (log_.replaying() && !log_.finished())
    return Time(static_cast<std::uint64_t>(log_.next(DecisionKind::clock, 0, {})));
  log_.record(DecisionKind::clock, 0, static_cast<std::int64_t>(now.picoseconds));
  return now;
}

}  // namespace orrery
