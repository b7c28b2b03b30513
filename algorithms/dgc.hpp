// Deep gradient compression. See dgc.cpp.
#pragma once

#include <map>

#include "algorithms/compressed_gradients.hpp"

namespace orrery {

struct DgcOptions {
  DgcOptions() { optimizer.name = "sgd"; }
  OptimizerSpec optimizer;
  double ratio = 0.001;             // k / P
  double momentum = 0.9;            // m
  std::optional<double> clip_norm;  // c, of the global gradient; locally c / sqrt(n)
  std::int64_t warmup_steps = 0;    // of each sparser ratio: 25 %, 6.3 %, 1.6 %, 0.4 %
};
void describe(Fields<DgcOptions>& f);

class Dgc : public CompressedGradients {
 public:
  Dgc(Replica& replica, const DgcOptions& options);
  std::optional<Bytes> sent(std::int64_t steps) const override;
  void visit(Archive& archive) override;

 private:
  struct Stage {
    Prepared select;
    GatheredMean mean;
  };
  void synchronise(const Tensor& gradient, std::int64_t step) override;
  double ratio_at(std::int64_t step) const;
  Stage& stage(double ratio);
  DgcOptions options_;
  Tensor momentum_, accumulated_;  // u, v
  std::map<double, Stage> stages_;
};

}  // namespace orrery
