// QSGD: gradients in few levels, rounded at random. See qsgd.cpp.
#pragma once

#include "algorithms/codecs/compressed_mean.hpp"
#include "algorithms/compressed_gradients.hpp"

namespace orrery {

struct QsgdOptions {
  OptimizerSpec optimizer;
  std::int64_t levels = 127;  // s
  std::int64_t bucket = 128;  // d, numbers under one norm
};
void describe(Fields<QsgdOptions>& f);

class Qsgd : public CompressedGradients {
 public:
  Qsgd(Replica& replica, const QsgdOptions& options);
  std::optional<Bytes> sent(std::int64_t steps) const override;
  void visit(Archive& archive) override;

 private:
  void synchronise(const Tensor& gradient, std::int64_t step) override;
  std::shared_ptr<const Codec> codec_;
  CompressedMean mean_;
};

}  // namespace orrery
