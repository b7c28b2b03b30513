// Data parallelism with bucketed, overlapped gradient averaging. See ddp.cpp.
#pragma once

#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/replica.hpp"

namespace orrery {

struct DdpOptions {
  Bytes bucket{25'000'000}, first_bucket{1'000'000};
  double clip_norm = 0;  // 0: gradients are not clipped
};

class Ddp : public Algorithm, private ShardingHooks {
 public:
  Ddp(Replica& replica, const DdpOptions& options);
  void step(Progress& progress) override;
  void visit(Archive& archive) override;
  const std::vector<Bucket>& buckets() const { return buckets_; }

 private:
  void gradients_ready(const Unit& unit) override;
  Replica& replica_;
  DdpOptions options_;
  std::vector<Bucket> buckets_;
  Stream* communication_ = nullptr;  // null: nobody to average with
  Channel* data_ = nullptr;
};

}  // namespace orrery
