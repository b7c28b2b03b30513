// How far a run has come: hands out batches, bounds how far the host runs ahead, collects losses.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "backend/checkpoint.hpp"
#include "backend/event.hpp"
#include "backend/rank.hpp"

namespace orrery {

// Consecutive samples of the data, by global sample number.
struct Batch {
  std::uint64_t first_sample = 0;
  int samples = 0;
};

// Where an issued step ends.
struct StepEnd {
  Event end;    // the tail of its stream
  Tensor loss;  // the mean over this replica's samples, on ranks that compute it
};

struct RunLength {
  std::int64_t steps = 1;         // optimizer steps of the whole training, resumed ones included
  std::int64_t global_batch = 1;  // samples per step, over all replicas
};

// One rank's progress. Samples are numbered globally: step t consumes [t B, (t + 1) B), of which
// the replica with batch coordinate r of R consumes the r-th share, in order. So the data of a step
// does not depend on the parallel plan; islands, which meet less often, have shares too. Where a
// step has no fixed number of samples, replicas take turns instead: the n-th micro-batch of m
// samples drawn by replica r is [(n R + r) m, …).
class Progress {
 public:
  Progress(Rank& rank, const RunLength& length);

  bool more() const { return !ended_ && (in_turns_ || step() < length_.steps); }
  // From now on replicas take steps as they come to them, so that fast ones take more, until each
  // is told that there are no more.
  void take_turns() { in_turns_ = true; }
  void end() { ended_ = true; }
  // A replica that comes later takes part from this step on.
  void begin_at(std::int64_t step) { done_before_ = step - issued_; }
  std::int64_t step() const { return done_before_ + issued_; }  // of the whole training
  std::int64_t local_batch() const { return local_batch_; }     // samples of this replica per step
  // Samples [from, from + samples) of this replica's share of a step, which may be one to come.
  // Error{invalid_program} beyond the share.
  Batch part(std::int64_t step, std::int64_t from, int samples) const;
  void take_share() { taken_ = local_batch_; }  // this step's samples are handed out by `part`
  std::int64_t steps() const { return length_.steps; }  // of the whole training
  // The next `samples` of this replica, as many as it likes; a step then has those drawn in it.
  Batch draw(int samples);
  // A step has been issued. Waits until at most two steps are under way; its loss is read when it
  // has ended.
  void step_issued(const StepEnd& step);
  // Samples of this replica in steps that took another number than planned.
  const std::map<std::int64_t, std::int64_t>& unplanned() const { return unplanned_; }
  // Waits for the steps under way; call once, after the last.
  void finish();
  void visit(Archive& archive);

 private:
  void retire();
  struct Step {
    std::int64_t number;
    StepEnd end;
  };
  Rank& rank_;
  RunLength length_;
  std::int64_t local_batch_, replicas_, replica_;
  std::int64_t issued_ = 0, done_before_ = 0, taken_ = 0, drawn_ = 0;
  bool in_turns_ = false, ended_ = false;
  std::vector<Step> under_way_;                     // the oldest first
  std::map<std::int64_t, std::int64_t> unplanned_;  // samples, by step
};

}  // namespace orrery
