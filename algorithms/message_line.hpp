// One direction of messages between a stage and its neighbour, with two buffers at either end: the
// one that is worked on, and the next.
#pragma once

#include <deque>
#include <string>
#include <utility>

#include "backend/rank.hpp"

namespace orrery {

// A stage without this neighbour has a line that is closed: nothing comes, and what is sent is
// gone.
class MessageLine {
 public:
  MessageLine() = default;
  // Incoming messages have so many elements; the stream belongs to this line alone.
  MessageLine(Channel& edge, Stream& stream, std::int64_t elements, Dtype dtype)
      : edge_(&edge), stream_(&stream), elements_(elements), dtype_(dtype) {}

  // Incoming. The first two messages are received ahead; `all`: that will come, those before `from`
  // being past.
  void begin(std::int64_t from, std::int64_t all);
  // When the next one has come; at once where nothing comes.
  Event arrival() const { return edge_ == nullptr ? Event{} : under_way_.front().second; }
  // The next one, for use on `stream`.
  Tensor take(Stream& stream);
  // What was taken has been used by all that `stream` has: receives another in its place.
  void taken(const Stream& stream);

  // Outgoing. Before `stream` makes a message: waits until there is room for it.
  void make_room(Stream& stream);
  void send(const Stream& stream, const Tensor& message);

  // Orders the line before what follows on `stream`, or behind what it has: its buffers are free.
  void finish(Stream& stream);

 private:
  void receive();
  Channel* edge_ = nullptr;
  Stream* stream_ = nullptr;
  std::int64_t elements_ = 0, received_ = 0, all_ = 0;
  Dtype dtype_ = Dtype::fp32;
  std::deque<std::pair<Tensor, Event>> under_way_;  // of sends, the event alone
};

}  // namespace orrery
