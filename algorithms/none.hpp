// A single replica. See none.cpp.
#pragma once

#include <optional>

#include "algorithms/algorithm.hpp"
#include "algorithms/optimizers/optimizer_spec.hpp"
#include "algorithms/replica.hpp"

namespace orrery {

struct NoneOptions {
  OptimizerSpec optimizer;
  std::optional<double> clip_norm;  // absent: gradients are not clipped
};
void describe(Fields<NoneOptions>& f);

class None : public Algorithm {
 public:
  None(Replica& replica, const NoneOptions& options);
  StepEnd issue(Progress& progress) override;
  std::optional<Bytes> sent(std::int64_t) const override { return Bytes(0); }
  void visit(Archive& archive) override { replica_.visit(archive); }

 private:
  Replica& replica_;
  NoneOptions options_;
  Channel* context_ = nullptr;  // null: whole sequences
};

}  // namespace orrery
