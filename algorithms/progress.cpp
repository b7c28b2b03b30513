#include "algorithms/progress.hpp"

namespace orrery {

Progress::Progress(Rank& rank, const RunLength& length) : rank_(rank), length_(length) {
  const std::int64_t replicas = rank.size(batch_axes);
  if (length.global_batch % replicas != 0)
    throw Error(Category::config, "a global batch of " + std::to_string(length.global_batch) +
                                      " samples does not divide over " + std::to_string(replicas) +
                                      " replicas");
  local_batch_ = length.global_batch / replicas;
  replica_ = rank.coordinate(Axis::shard) +
             static_cast<std::int64_t>(rank.size(Axis::shard)) * rank.coordinate(Axis::replicate);
}

Batch Progress::next(int samples) {
  if (taken_ + samples > local_batch_)
    throw Error(Category::invalid_program, "a step has " + std::to_string(local_batch_) +
                                               " samples per replica; more were asked for");
  const std::int64_t first = step() * length_.global_batch + replica_ * local_batch_ + taken_;
  taken_ += samples;
  return {static_cast<std::uint64_t>(first), samples};
}

void Progress::step_issued(Event end, const Tensor& loss) {
  rank_.stream_of(end).mark_step(issued_);
  under_way_.push_back({step(), end, loss});
  ++issued_;
  taken_ = 0;
  while (under_way_.size() > 2) retire();
}

void Progress::retire() {
  const Step step = under_way_.front();
  under_way_.pop_front();
  rank_.wait(step.end);
  if (step.loss && rank_.computes_values())
    rank_.record_loss(step.number, rank_.read(step.loss)[0]);
}

void Progress::finish() {
  while (!under_way_.empty()) retire();
}

void Progress::visit(Archive& archive) {
  const Archive::Scope scope(archive, "progress");
  std::int64_t steps = step();
  archive.field("steps", steps);
  done_before_ = steps - issued_;
}

}  // namespace orrery
