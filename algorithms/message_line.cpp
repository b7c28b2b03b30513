#include "algorithms/message_line.hpp"

namespace orrery {

void MessageLine::begin(std::int64_t from, std::int64_t all) {
  received_ = from;
  all_ = all;
  receive();
  receive();
}

// The buffer belongs to the line's stream, so that the transfer may start at once.
void MessageLine::receive() {
  if (edge_ == nullptr || received_ == all_) return;
  Tensor buffer = stream_->rank().allocate(*stream_, Label::communication, elements_, dtype_,
                                           {.name = "received"});
  const Event event = stream_->receive(buffer, *edge_);
  under_way_.emplace_back(std::move(buffer), event);
  ++received_;
}

Tensor MessageLine::take(Stream& stream) {
  if (edge_ == nullptr) return {};
  auto [buffer, event] = std::move(under_way_.front());
  under_way_.pop_front();
  stream.after(event);
  return std::move(buffer);
}

void MessageLine::taken(const Stream& stream) {
  if (edge_ == nullptr) return;
  stream_->after(stream.record());
  receive();
}

void MessageLine::make_room(Stream& stream) {
  if (under_way_.size() < 2) return;
  stream.after(under_way_.front().second);
  under_way_.pop_front();
}

void MessageLine::send(const Stream& stream, const Tensor& message) {
  if (edge_ == nullptr) return;
  stream_->after(stream.record());
  under_way_.emplace_back(Tensor(), stream_->send(message, *edge_));
}

void MessageLine::finish(Stream& stream) {
  if (edge_ == nullptr) return;
  stream_->after(stream.record());
  stream.after(stream_->record());
  under_way_.clear();
}

}  // namespace orrery
