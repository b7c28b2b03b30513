// SlowMo: momentum between the averages of local SGD. See slowmo.cpp.
#pragma once

#include "algorithms/islands.hpp"

namespace orrery {

struct SlowMoOptions : IslandOptions {
  SlowMoOptions() { inner_steps = 12; }
  double slow_lr = 1;          // alpha
  double slow_momentum = 0.7;  // beta
};
void describe(Fields<SlowMoOptions>& f);

class SlowMo : public Islands {
 public:
  SlowMo(Replica& replica, std::unique_ptr<Algorithm> inner, const SlowMoOptions& options);
  void visit(Archive& archive) override;

 private:
  void inner_step_issued(std::int64_t t) override;
  void visit_common(Archive& archive) override;
  void has_joined() override;
  Bytes sent_in_meetings(std::int64_t steps) const override;
  SlowMoOptions options_;
  Tensor start_;                         // x_{t,0}
  std::unique_ptr<Optimizer> momentum_;  // u and its step
  Tensor inverse_rate_;                  // 1 / gamma_t
};

}  // namespace orrery
