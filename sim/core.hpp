// What the parts of the simulated world share, and how the engine's completions find them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/world.hpp"
#include "platforms/machine.hpp"
#include "sim/simgrid/engine.hpp"
#include "sim/trace.hpp"
#include "sim/world.hpp"

namespace orrery::sim {

class Collectives;
class Interference;
class Mail;
class SharedCores;
class SimCursor;
class SimDevice;
class SimRank;
class Streams;

// Who a completion is for; with the address of its object it makes the engine's payload.
enum class Due : std::uint8_t {
  operation,         // StreamState: its head ends
  operation_reads,   // StreamState: its head takes copies of what it reads
  stream_settles,    // StreamState: an operation within its run ends, for which somebody waits
  threads_counted,   // SharedCores: how many work
  stream_wakes,      // StreamState: the host's past catches up with its head
  transfer,          // Transfer: its next stage
  transfer_reads,    // Transfer: takes copies of what it reads
  transfer_writes,   // StreamState: its head, a communication, writes its result
  transfer_member,   // StreamState: its head, a communication across neighbourhoods, ends
  transfer_awaited,  // Transfer: its end is awaited
  transfer_lost,     // Transfer: is given up, as some members have ended
  transfer_flow,     // Transfer: one of its flows has ended
  ring_sends,        // RingMember: alpha has passed
  ring_receives,     // RingMember: its step has arrived at the next member
  flow_wakes,        // HostFlow: its deadline, or the clock it waits for
  service_wakes,     // SimService: its deadline
  message            // MessageInFlight
};

inline std::uint64_t make_payload(Due what, const void* object) {
  return std::uint64_t{static_cast<std::uint8_t>(what)} << 56 |
         reinterpret_cast<std::uint64_t>(object);
}
inline Due what_is_due(std::uint64_t payload) { return static_cast<Due>(payload >> 56); }
template <class T>
T& object_of(std::uint64_t payload) {
  return *reinterpret_cast<T*>(payload & 0x00ff'ffff'ffff'ffffU);
}

struct Core {
  Core(EngineClient& client, WorldOptions world, const SimOptions& sim,
       const EngineOptions& engine);
  ~Core();

  SimOptions options;
  const Machine& machine;
  WorldState state;
  Engine engine;
  std::vector<std::unique_ptr<SimRank>> ranks;  // by rank; when folded, by class
  std::vector<SimDevice*> devices;              // those that run a program
  std::vector<SimCursor*> woken;                // whose hosts go on in the next phase 2
  std::unique_ptr<Streams> streams;
  std::unique_ptr<Collectives> collectives;
  std::unique_ptr<Mail> mail;
  std::unique_ptr<Interference> interference;  // null: kernels run as fast beside anything
  std::unique_ptr<SharedCores> shared_cores;   // null: each device is its own
  std::unique_ptr<TraceWriter> trace;          // null: no trace

  // Within phase 1 operations of no length can end at once; in phase 2 they go through the queue,
  // so that nothing ends while actors run.
  bool delivering = false;
  bool communications_interfere = false;  // with kernels
  Time now;                               // the engine's, for the streams and collectives
  Time end;                               // of the last operation

  std::uint32_t rank_count() const { return static_cast<std::uint32_t>(state.options.grid.size()); }
  // A key of its own for a completion that no stream is named for.
  Key extra_key(std::uint32_t rank) { return {rank, Key::last_stream, ++extra_keys_, 0}; }
  // Operands that race are written behind all other completions of the instant, in (rank, stream,
  // ordinal) order, and read behind the writes. So what ends at an instant is seen by what starts
  // at it, and identical ranks stay identical whatever their numbers.
  static Key racy_write_key(std::uint32_t rank, std::uint16_t stream, std::uint64_t ordinal) {
    return {rank, stream, ordinal, 1};
  }
  Key racy_read_key() { return {0, 0, ++extra_keys_, 2}; }
  // Behind all else of the instant.
  Key count_key() { return {0, 0, ++extra_keys_, 3}; }

 private:
  std::uint32_t extra_keys_ = 0;  // may begin again: those of one instant are few
};

// "12.345678 us": exact, for errors.
std::string time_text(Time time);

}  // namespace orrery::sim
