// Gradients of a replica whose ranks divide samples, for algorithms that average over nobody else.
#pragma once

#include "algorithms/replica.hpp"

namespace orrery {

class ContextMean {
 public:
  explicit ContextMean(Replica& replica) : replica_(replica) {
    Rank& rank = replica.rank();
    if (rank.size(Axis::context) > 1) channel_ = &rank.channel(Axis::context, "gradients");
  }
  // The gradient buffer <- its mean over the ranks, before what follows on the compute stream.
  // Cost, for G bytes and c ranks: 2 (c-1)/c G sent by each, exposed.
  void take() {
    if (channel_ == nullptr) return;
    Stream& communication = replica_.rank().stream("gradients");
    communication.after(replica_.compute().record());
    replica_.compute().after(
        communication.all_reduce(replica_.flat().all_gradients(), Reduce::mean, *channel_));
  }

 private:
  Replica& replica_;
  Channel* channel_ = nullptr;  // null: whole samples
};

}  // namespace orrery
