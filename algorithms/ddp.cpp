// Distributed data parallel training.
//
// Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", VLDB 2020
// (arXiv 2006.15704): every replica computes the gradient of its share of the batch; gradients are
// averaged by all-reduce in buckets, filled in the reverse order of registration, each as soon as
// its last gradient is ready, so that communication runs beside the rest of the backward.
//
//   for each micro-batch k:        accumulate grad of loss(theta; batch_k) into g
//     in the last one, for each bucket b as it fills:    g_b <- 1/n sum over replicas of g_b
//   g <- g min(1, c / |g|);   theta <- optimizer(theta, g)
//
// Cost, for P gradient bytes and n replicas:
//   communication   one all-reduce per bucket and step: 2 (n-1)/n P bytes per rank, whatever the
//                   number of micro-batches
//   memory          parameters, gradients and optimizer state whole on every rank; buckets are
//                   slices, not copies
#include "algorithms/ddp.hpp"

namespace orrery {

void describe(Fields<DdpOptions>& f) {
  f.section("optimizer", &DdpOptions::optimizer);
  f.field("clip_norm", &DdpOptions::clip_norm)
      .positive()
      .doc("largest norm of the gradient; absent: not clipped");
  f.field("bucket", &DdpOptions::bucket).positive().doc("gradients per all-reduce");
  f.field("first_bucket", &DdpOptions::first_bucket)
      .positive()
      .doc("the first one is smaller, so that it starts early");
}

Ddp::Ddp(Replica& replica, const DdpOptions& options)
    : replica_(replica),
      options_(options),
      buckets_(replica.buckets(options.bucket, options.first_bucket)) {
  Rank& rank = replica.rank();
  if (rank.size(gradient_axes) == 1) return;
  communication_ = &rank.stream("gradients");
  for (const Bucket& bucket : buckets_) {
    const bool all = bucket.over == gradient_axes;
    if (rank.size(bucket.over) > 1)
      channels_[bucket.over.bits()] =
          &rank.channel(bucket.over, all ? "gradients" : "expert gradients");
  }
  replica_.install(*this);
}

// The last micro-batch's backward of this unit has been issued.
void Ddp::gradients_ready(const Unit& unit) {
  for (const Bucket& bucket : buckets_) {
    const auto channel = channels_.find(bucket.over.bits());
    if (bucket.first_block != unit.block || channel == channels_.end()) continue;
    communication_->after(replica_.compute().record());
    communication_->all_reduce(bucket.gradients, Reduce::mean, *channel->second);
  }
}

StepEnd Ddp::issue(Progress& progress) {
  replica_.accumulate_gradients(progress);
  if (communication_ != nullptr)
    replica_.compute().after(communication_->record());  // the device waits, the host does not
  const Tensor scale =
      options_.clip_norm ? replica_.clip_scale(replica_.compute(), *options_.clip_norm) : Tensor();
  replica_.optimizer_step(replica_.compute(), replica_.parameters(), scale);
  return {replica_.compute().record(), replica_.loss()};
}

std::optional<Bytes> Ddp::sent(std::int64_t steps) const {
  Bytes step;
  for (const Bucket& bucket : buckets_)
    step += wire_bytes(Collective::all_reduce, bucket.gradients.bytes(),
                       replica_.rank().size(bucket.over));
  return step * steps;
}

void Ddp::visit(Archive& archive) { replica_.visit(archive); }

}  // namespace orrery

// Differences from the paper: buckets are slices of one flat gradient buffer, so nothing is copied
// in or out; a bucket's membership is fixed in advance instead of being rebuilt from the order
// observed in the first step; unused parameters are not searched for.
