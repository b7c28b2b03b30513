// LAgg-A: a learned optimizer sees what each worker did. See lagg_a.cpp.
#pragma once

#include "algorithms/learned/learned_optimizer.hpp"

namespace orrery {

struct LaggAOptions : LearnedOptions {
  bool sharded = true;
  // Error{config} for weights that are not for so many workers.
  void check_workers(int count) const;
};
void describe(Fields<LaggAOptions>& f);

class LaggA : public Islands {
 public:
  LaggA(Replica& replica, std::unique_ptr<Algorithm> inner, const LaggAOptions& options);
  void visit(Archive& archive) override;

 private:
  void inner_step_issued(std::int64_t t) override;
  Bytes sent_in_meetings(std::int64_t steps) const override;
  void exchange(const Tensor& received, const Tensor& delta);
  Tensor buffer(const char* name);
  LaggAOptions options_;
  int workers_;
  LearnedOptimizer learned_;
  Tensor theta_;  // as of the last meeting; sharded: padded to equal shards
  Tensor shard_;  // sharded: this rank's part of theta while it is stepped
};

}  // namespace orrery
