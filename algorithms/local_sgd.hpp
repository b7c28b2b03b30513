// Local SGD: workers train by themselves and average their parameters. See local_sgd.cpp.
#pragma once

#include "algorithms/islands.hpp"

namespace orrery {

struct LocalSgdOptions : IslandOptions {
  LocalSgdOptions() { inner_steps = 8; }
};
void describe(Fields<LocalSgdOptions>& f);

class LocalSgd : public Islands {
 public:
  LocalSgd(Replica& replica, std::unique_ptr<Algorithm> inner, const LocalSgdOptions& options);

 private:
  void inner_step_issued(std::int64_t t) override;
  void visit_common(Archive& archive) override;
  void has_joined() override;
  Bytes sent_in_meetings(std::int64_t steps) const override;
  LocalSgdOptions options_;
};

}  // namespace orrery
