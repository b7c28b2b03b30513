// 1-bit Adam. See onebit_adam.cpp.
#pragma once

#include "algorithms/codecs/compressed_mean.hpp"
#include "algorithms/compressed_gradients.hpp"

namespace orrery {

struct OnebitAdamOptions {
  OptimizerSpec optimizer;            // adamw
  std::int64_t freeze_step = 100000;  // T_w, steps of Adam before the compression
};
void describe(Fields<OnebitAdamOptions>& f);

class OnebitAdam : public CompressedGradients {
 public:
  OnebitAdam(Replica& replica, const OnebitAdamOptions& options);
  StepEnd issue(Progress& progress) override;
  std::optional<Bytes> sent(std::int64_t steps) const override;
  void visit(Archive& archive) override;

 private:
  void synchronise(const Tensor& gradient, std::int64_t step) override;
  void compressed_step();
  OnebitAdamOptions options_;
  std::shared_ptr<const Codec> codec_;
  CompressedMean mean_;
  struct Range {  // of parameters that decay alike
    std::int64_t begin, end;
    Prepared step;
  };
  Tensor m_, v_, rate_;
  Prepared average_;
  std::vector<Range> ranges_;
};

}  // namespace orrery
