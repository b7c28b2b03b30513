// Streams at work: what starts when, what ends when, and who is told.
//
// An operation starts when the one before it has ended and the host has issued it; a fence ends
// when the stream it names has passed the event. Everything happens in the engine's phase 1, but
// for the start of what is issued to an empty stream.
//
// Operations in a row whose ends are known when the first one starts (kernels without values,
// fences that have nothing to wait for) are a run: one entry of the engine's queue for its end, and
// others only where somebody waits for an operation within it (expect()). Between these, a stream
// lags behind the clock: who looks at what it has passed calls settle() first. Times are those of
// operations that end one by one.
#pragma once

#include <exception>
#include <vector>

#include "sim/core.hpp"
#include "sim/stream_state.hpp"

namespace orrery::sim {

struct Transfer;

// Entry::extra of an operation that has values.
inline constexpr std::uint32_t with_values = 1;

class Streams {
 public:
  explicit Streams(Core& core) : core_(core) {}

  // An entry has come to an empty stream.
  void start(StreamState& stream);

  // Ends all operations of the run under way that have ended by now.
  void settle(StreamState& stream) {
    if (stream.phase == StreamPhase::running && stream.passed + 1 < stream.run_end)
      catch_up(stream);
  }
  // settle() will be called when operation `ordinal` ends, whatever run it is in.
  void expect(StreamState& stream, std::uint64_t ordinal);

  // What is taken of the rank's GPU has changed: what runs there ends at another time. Its streams
  // are settled.
  void retime(SimRank& rank);

  void operation_due(StreamState& stream);
  void settle_due(StreamState& stream);
  void reads_due(StreamState& stream);
  void wakes(StreamState& stream);

  // The stream's head, a communication, is over; it counts as `wait`. run_ready() must follow.
  void communication_ended(StreamState& stream, WaitClass wait);
  // Lets every stream go on that an end has freed. Within another call it does nothing: that one
  // gets to them.
  void run_ready();

  // Operation `ordinal` of the stream and all later ones fail.
  static void poison(StreamState& stream, std::uint64_t ordinal, std::exception_ptr failure);

 private:
  void advance(StreamState& stream);
  void begin_communication(StreamState& stream, Transfer& transfer, Time start);
  static void add_waiter(StreamState& target, StreamState& waiter);
  bool begin_fence(StreamState& stream, const Entry& entry, Time start);
  bool begin_operation(StreamState& stream, const Entry& entry, Time start);
  void catch_up(StreamState& stream);
  void schedule_end(StreamState& stream, Time end);
  void schedule_racy_end(StreamState& stream, Time end);
  Time begin_run(StreamState& stream, Time end);
  Time foreseen_end(StreamState& stream, const Entry& entry, std::uint64_t ordinal, Time at) const;
  void account_operation(StreamState& stream, const Entry& entry, Time end) const;
  void note_work(const StreamState& stream, const Entry& entry, Time computed) const;
  void end_operation(StreamState& stream);
  void end_fence(StreamState& stream);
  static void pop(StreamState& stream);
  void pass(StreamState& stream, Time at);
  void trace_operation(const StreamState& stream, const Entry& entry) const;
  double factor_of(const StreamState& stream, const Entry& entry, std::uint64_t ordinal) const;
  double drawn_factor(const StreamState& stream, const Entry& entry, std::uint64_t ordinal) const;
  // Something of the GPU is taken from kernels of an operation that begins at `start`.
  bool disturbed(const StreamState& stream, Time start) const;
  // A kernel of the stream, on the GPU as it is.
  Time kernel_end(const StreamState& stream, const PreparedKernel& kernel, Time start,
                  double factor) const;
  // How long the kernels of its head, a sequence, run.
  Time computing(const StreamState& stream, const Entry& entry) const;
  Time end_of(const StreamState& stream, const Entry& entry, std::uint64_t ordinal,
              Time start) const;
  // Of its head.
  Time end_of(const StreamState& stream, const Entry& entry) const {
    return end_of(stream, entry, stream.head(), stream.began);
  }

  // Factors drawn of late, as each is asked for when its run begins and again when it has passed.
  struct Drawn {
    std::uint64_t key = 0;  // Key::packed; 0: none
    double factor = 1;
  };
  static constexpr int drawn_bits = 12;

  Core& core_;
  mutable std::vector<Drawn> drawn_ = std::vector<Drawn>(std::size_t{1} << drawn_bits);
  std::vector<StreamState*> ready_;
  bool running_ready_ = false;
};

}  // namespace orrery::sim
