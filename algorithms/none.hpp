// A single replica. See none.cpp.
#pragma once

#include <optional>

#include "algorithms/algorithm.hpp"
#include "algorithms/context_mean.hpp"
#include "algorithms/optimizers/optimizer_spec.hpp"

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
  ContextMean context_;
};

}  // namespace orrery
