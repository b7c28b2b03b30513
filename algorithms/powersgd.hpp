// PowerSGD: low-rank gradients. See powersgd.cpp.
#pragma once

#include "algorithms/compressed_gradients.hpp"

namespace orrery {

struct PowerSgdOptions {
  OptimizerSpec optimizer;
  std::int64_t rank = 2;  // r
};
void describe(Fields<PowerSgdOptions>& f);

class PowerSgd : public CompressedGradients {
 public:
  PowerSgd(Replica& replica, const PowerSgdOptions& options);
  std::optional<Bytes> sent(std::int64_t steps) const override;
  void visit(Archive& archive) override;

 private:
  // A matrix n x m of the gradient, or numbers that are sent as they are (rank 0).
  struct Part {
    std::size_t begin, n, m, rank;
    std::size_t p, q;  // where its factors, or its numbers, are in P and Q
  };
  void synchronise(const Tensor& gradient, std::int64_t step) override;
  void prepare(Flops work);
  std::shared_ptr<const std::vector<Part>> parts_;
  Tensor error_, p_, q_;
  Prepared left_, right_, product_;
};

}  // namespace orrery
