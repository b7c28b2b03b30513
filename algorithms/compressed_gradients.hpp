// Replicas that agree in every step, on gradients sent compressed: what QSGD, top-k, DGC and
// PowerSGD have in common.
#pragma once

#include <optional>

#include "algorithms/algorithm.hpp"
#include "algorithms/codecs/codec.hpp"
#include "algorithms/optimizers/optimizer_spec.hpp"
#include "algorithms/replica.hpp"

namespace orrery {

class CompressedGradients : public Algorithm {
 public:
  // Gradients of all micro-batches, what synchronise makes of them, and the optimizer's step.
  StepEnd issue(Progress& progress) override;
  void visit(Archive& archive) override { replica_.visit(archive); }

 protected:
  // For several replicas. Error{config} where gradients are not fp32.
  explicit CompressedGradients(Replica& replica);
  // The gradient of this replica becomes that of all, in the order of the compute stream; `step` is
  // counted from 0.
  virtual void synchronise(const Tensor& gradient, std::int64_t step) = 0;

  Stream& compute() const { return replica_.compute(); }
  std::int64_t elements() const { return replica_.flat().all_gradients().elements(); }
  // An fp32 state of so many zeros.
  Tensor zeros(std::int64_t size, Label label, const char* name) const;

  Replica& replica_;
  Rank& rank_;
  Stream& communication_;
  Channel& data_;
};

// Messages of one codec, gathered from all members and averaged: for codecs whose sums cannot be
// sent on, such as sparse ones. Each member receives n - 1 messages.
class GatheredMean {
 public:
  GatheredMean(Stream& stream, Channel& channel, std::shared_ptr<const Codec> codec,
               std::int64_t elements);
  std::int64_t message_bytes() const { return bytes_; }
  // `x` becomes the mean of what the members' messages say.
  void reduce(const Tensor& message, const Tensor& x);
  Bytes sent() const { return Bytes(bytes_ * (channel_.size() - 1)); }

 private:
  Stream& stream_;
  Channel& channel_;
  std::int64_t bytes_;
  Prepared mean_;
};

}  // namespace orrery
