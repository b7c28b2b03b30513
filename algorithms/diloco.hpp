// DiLoCo: distributed low-communication training. See diloco.cpp.
#pragma once

#include "algorithms/islands.hpp"

namespace orrery {

struct DilocoOptions : IslandOptions {
  double outer_lr = 0.7;
  double outer_momentum = 0.9;
  bool nesterov = true;
  double drop = 0;  // of DiLoCo alone: with this probability a worker's outer gradient gets lost
};
void describe(Fields<DilocoOptions>& f);
template <class Options>
void describe_diloco(Fields<Options>& f) {
  describe_islands(f);
  const auto own = []<class M>(M DilocoOptions::*member) {
    return static_cast<M Options::*>(member);
  };
  f.field("outer_lr", own(&DilocoOptions::outer_lr)).positive().doc("of the outer step");
  f.field("outer_momentum", own(&DilocoOptions::outer_momentum)).between(0, 1).doc("mu");
  f.field("nesterov", own(&DilocoOptions::nesterov)).doc("of the outer step");
}
// The outer step's.
OptimizerOptions outer_optimizer(const DilocoOptions& options);

class Diloco : public Islands {
 public:
  Diloco(Replica& replica, std::unique_ptr<Algorithm> inner, const DilocoOptions& options);
  void visit(Archive& archive) override;

 private:
  void inner_step_issued(std::int64_t t) override;
  void visit_common(Archive& archive) override;
  void has_joined() override;
  bool arrives(std::int64_t meeting, int island) const;
  bool outer_gradients_arrived(std::int64_t meeting);
  Bytes sent_in_meetings(std::int64_t steps) const override;
  DilocoOptions options_;
  Tensor theta_;  // as of the last outer step, the same on all workers
  std::unique_ptr<Optimizer> outer_;
  Tensor kept_, share_;  // where gradients get lost: theta_i of who lost one, and how many
                         // met over how many did not
};

}  // namespace orrery
