// What a world does for one rank. A world implements this interface and `World`; programs never see
// it.
//
// Calls come from the rank's flows, one at a time, in issue order. All checks of the interface
// (hazards, ledger, matching of handles) have been made; a world only executes.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "backend/channel.hpp"
#include "backend/flow.hpp"
#include "backend/prepared.hpp"
#include "backend/rank_lost.hpp"
#include "backend/tensor.hpp"

namespace orrery {

// What lets a program tell its rank from others, or learn from time.
enum class Identity : std::uint8_t {
  number,      // of the rank
  coordinate,  // along an axis
  part,        // of a tensor or of the data: no operation depends on it
  time,
  random,  // the rank's own random numbers
  values,
  flow,  // a second control flow
  message
};
// "its number", "its coordinate", …: what a program asks for.
const char* name(Identity);

class Device {
 public:
  virtual ~Device() = default;

  // The program is about to learn this; a coordinate or part over `axes`. A world that issues for
  // several ranks at once throws when they would learn different things.
  virtual void asks(Identity, Axes, Site) {}

  // Set-up.
  virtual void open_stream(std::uint32_t stream, const std::string& name, Place place) = 0;
  // The rank may launch this sequence; told each time that its program asks for it.
  virtual void prepare(const Sequence&) {}

  // A channel's group will lose ranks or change. Error{unavailable} in a world that cannot notice.
  virtual void may_change(const Channel& channel);

  // Memory for values. `map` returns null in a run without values, except for Values::always. After
  // `unmap` the memory may be reused by later operations of the home stream at once, by others when
  // the home stream has passed `after`.
  virtual void* map(const Storage& storage) = 0;
  virtual void unmap(void* data, const Storage& storage, Event after) = 0;
  // Copies bytes of an operand from or to host memory, when no operation in flight uses it.
  virtual void read(const Operand& from, void* to);
  virtual void write(const void* from, const Operand& to);

  // Device operations: the next operation of `stream`; returns at once. Reads happen when it
  // starts, writes when it ends.
  virtual void launch(std::uint32_t stream, const PreparedKernel& kernel,
                      std::span<const Operand> operands, std::uint32_t roles) = 0;
  virtual void launch(std::uint32_t stream, const Sequence& sequence,
                      std::span<const Operand> operands) = 0;
  virtual void copy(std::uint32_t stream, const Operand& from, const Operand& to) = 0;
  virtual void upload(std::uint32_t stream, const Operand& to, std::span<const double> values) = 0;
  virtual void fence(std::uint32_t stream, Event event) = 0;
  // `others` as for Communicator::issue. The world calls issue() under its own lock.
  virtual void communicate(
      std::uint32_t stream, Channel& channel, const Communication& communication,
      const std::vector<std::pair<const Communicator*, std::uint64_t>>& others) = 0;
  // Notes in the report when the stream gets here: the end of step `step`. Not an operation: takes
  // no ordinal.
  virtual void mark_step(std::uint32_t stream, std::int64_t step) = 0;

  // Host flows.
  virtual HostState& host() = 0;  // call with the world's lock held
  virtual std::uint32_t current_flow() = 0;
  // Blocks the calling flow until its wait is satisfied or its deadline has passed; whether it was
  // satisfied. Throws Error {deadlock} when nothing can satisfy it any more.
  virtual bool block(const Wait& wait) = 0;
  // Whether the event is done now, at this flow's clock (sim: advances the engine to it).
  virtual bool done(Event event) = 0;
  // Why the operation `event` stands for failed, itself or through one before it; null when it has
  // not.
  virtual std::exception_ptr failure(Event event) = 0;
  // A communication up to `event` on its stream that was given up; it is told once.
  virtual std::optional<Loss> take_loss(Event) { return {}; }
  virtual Time now() = 0;  // this flow's host clock
  virtual void fork(std::uint32_t flow, const std::string& name, std::function<void()> body) = 0;
  virtual void raise(Signal& signal) = 0;  // adds one under the lock and wakes
  virtual void take(Signal& signal) = 0;
  virtual void send(int to, ControlMessage message) = 0;
  virtual ControlMessage take_message(Tag tag,
                                      int from) = 0;  // present: a wait for it was satisfied
};

}  // namespace orrery
