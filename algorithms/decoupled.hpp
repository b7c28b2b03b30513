// Rounds in which a worker computes gradients while those of the round before are communicated:
// what ACCO, delayed parameter updates and weight prediction have in common.
//
// P are the live parameters, G accumulates gradients at P, B is the buffer of the communication
// stream. Each rank keeps the optimizer state of a shard. One round:
//
//   communication: B <- reduce-scatter of B; shard <- optimizer(shard, B / total count);
//                  B <- all-gather of the shards
//   compute:       repeat { G += gradients of a group of micro-batches } until B is there;  P <- B
//
// How many micro-batches a worker takes in a round is a decision of time, by polling: they are
// counted, and counts are added up beside the gradients, so that every micro-batch weighs the same.
// Where several ranks share layers or samples of a worker, B is there when all of them say so.
//
// Cost, for P parameters of p bytes and n workers:
//   communication  (n-1)/n 2 p P bytes per rank and round, and an all-reduce of a count; exposed
//                  only as far as it outlasts a group of micro-batches. Inside a worker an
//                  all-reduce of one number per group of micro-batches
//   memory         parameters, gradients and B whole; 12 / n P optimizer state (Adam), the shard's
//                  gradient, and 12 / n P more while an estimate is under way
#pragma once

#include <memory>

#include "algorithms/algorithm.hpp"
#include "algorithms/optimizers/optimizer_spec.hpp"
#include "algorithms/replica.hpp"

namespace orrery {

struct DecoupledOptions {
  OptimizerSpec optimizer;
};
void describe(Fields<DecoupledOptions>& f);

class Decoupled : public Algorithm {
 public:
  static constexpr bool owns_optimizer = true;  // of a shard

  void visit(Archive& archive) override;

 protected:
  // `group`: micro-batches between two looks at the communication.
  Decoupled(Replica& replica, const DecoupledOptions& options, int group);

  // What a round makes of the shard, and so of P:
  //   commit    the update of what B holds
  //   estimate  the same, but parameters and optimizer state stay as they were
  //   predict   the update, and beyond it an estimate of another one by the same gradients
  enum class Update { commit, estimate, predict };
  void round(Progress& progress, Update update);
  // Before the first round: gradients of a group, at the initial parameters.
  void first_gradients(Progress& progress);
  // B <- G with its count, for the next round.
  void hand_over();
  // The mean loss of what G holds, which is cleared.
  Tensor clear();
  // Bytes that a rank sends in so many rounds.
  Bytes sent_in(std::int64_t rounds) const;

  Replica& replica_;

 private:
  void communicate(Update update);
  void accumulate_group(Progress& progress);
  bool buffer_is_there();
  void update_shard();
  void cast(Stream& stream, const Tensor& from, const Tensor& to);
  void visit_versions(Archive& archive);
  Staleness& staleness() { return replica_.staleness(); }
  Rank& rank_;
  int group_;
  Stream &compute_, &communication_;
  Channel *data_, *counts_, *worker_ = nullptr;  // the last of a worker of several ranks
  std::int64_t elements_, shard_, begin_;        // my shard: [begin_, begin_ + shard_), padded
  Tensor buffer_;                                // B, padded to whole shards
  Tensor shard_gradient_, count_, scale_, missing_;
  Tensor weights_, narrow_;  // the shard in fp32, and in the parameters' type where that differs
  std::unique_ptr<Optimizer> optimizer_;
  std::int64_t taken_ = 0, handed_over_ = 0;  // micro-batches in G and in B
  GradientVersions in_buffer_;                // of B
  Prepared invert_;
  Event gathered_{};
};

}  // namespace orrery
