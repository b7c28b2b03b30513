// Data parallelism with bucketed, overlapped gradient averaging. See ddp.cpp.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/optimizers/optimizer_spec.hpp"
#include "algorithms/replica.hpp"

namespace orrery {

struct DdpOptions {
  OptimizerSpec optimizer;
  std::optional<double> clip_norm;  // absent: gradients are not clipped
  // PyTorch's bucket_cap_mb = 25 and first bucket of 1 MB.
  Bytes bucket{25'000'000}, first_bucket{1'000'000};
};
void describe(Fields<DdpOptions>& f);

class Ddp : public Algorithm, private ShardingHooks {
 public:
  Ddp(Replica& replica, const DdpOptions& options);
  StepEnd issue(Progress& progress) override;
  std::optional<Bytes> sent(std::int64_t steps) const override;
  void visit(Archive& archive) override;
  const std::vector<Bucket>& buckets() const { return buckets_; }

 private:
  void gradients_ready(const Unit& unit) override;
  Replica& replica_;
  DdpOptions options_;
  std::vector<Bucket> buckets_;
  Stream* communication_ = nullptr;            // null: nobody to average with
  std::map<std::uint8_t, Channel*> channels_;  // by the axes of a bucket
};

}  // namespace orrery
