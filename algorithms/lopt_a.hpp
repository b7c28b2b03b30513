// LOpt-A: a learned optimizer steps with the mean of what workers did. See lopt_a.cpp.
#pragma once

#include "algorithms/learned/learned_optimizer.hpp"

namespace orrery {

struct LoptAOptions : LearnedOptions {
  // Error{config} for weights that are not for so many workers.
  void check_workers(int count) const;
};
void describe(Fields<LoptAOptions>& f);

class LoptA : public Islands {
 public:
  LoptA(Replica& replica, std::unique_ptr<Algorithm> inner, const LoptAOptions& options);
  void visit(Archive& archive) override;

 private:
  void inner_step_issued(std::int64_t t) override;
  Bytes sent_in_meetings(std::int64_t steps) const override;
  LoptAOptions options_;
  Tensor theta_;  // as of the last meeting
  LearnedOptimizer learned_;
};

}  // namespace orrery
