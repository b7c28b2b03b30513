#include "algorithms/progress.hpp"

#include "algorithms/replica_number.hpp"

namespace orrery {

Progress::Progress(Rank& rank, const RunLength& length)
    : rank_(rank), length_(length), replicas_(rank.size(batch_axes | Axis::island)) {
  if (length.global_batch % replicas_ != 0)
    throw Error(Category::config, "a global batch of " + std::to_string(length.global_batch) +
                                      " samples does not divide over " + std::to_string(replicas_) +
                                      " replicas");
  local_batch_ = length.global_batch / replicas_;
  replica_ = replica_number(rank);
}

Batch Progress::part(std::int64_t of_step, std::int64_t from, int samples) const {
  if (from + samples > local_batch_)
    throw Error(Category::invalid_program, "a step has " + std::to_string(local_batch_) +
                                               " samples per replica; more were asked for");
  const std::int64_t first = of_step * length_.global_batch + replica_ * local_batch_ + from;
  return {static_cast<std::uint64_t>(first), samples};
}

Batch Progress::draw(int samples) {
  const std::int64_t first = drawn_ * replicas_ + replica_ * samples;
  drawn_ += samples;
  taken_ += samples;
  return {static_cast<std::uint64_t>(first), samples};
}

void Progress::step_issued(const StepEnd& end) {
  if (ended_ && taken_ == 0) return;  // told that there are none before its first
  rank_.stream_of(end.end).mark_step(issued_);
  under_way_.push_back({step(), end});
  if (taken_ != local_batch_) unplanned_[step()] = taken_;
  ++issued_;
  taken_ = 0;
  while (under_way_.size() > 2) retire();
}

void Progress::retire() {
  const Step step = under_way_.front();
  under_way_.erase(under_way_.begin());
  rank_.wait(step.end.end);
  if (step.end.loss && rank_.computes_values())
    rank_.record_loss(step.number, rank_.read(step.end.loss)[0]);
}

void Progress::finish() {
  while (!under_way_.empty()) retire();
}

void Progress::visit(Archive& archive) {
  const Archive::Scope scope(archive, "progress");
  std::int64_t steps = step();
  archive.field("steps", steps);
  archive.field("drawn", drawn_);
  done_before_ = steps - issued_;
}

}  // namespace orrery
